"""`make run`: PostgreSQL, Redis and the whole product from wheels, on a machine that has only Python.

Nothing outside this folder may import it (tests may): production brings its own servers and process manager.
"""
