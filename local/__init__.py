"""`make run`: PostgreSQL, Redis and the whole product from wheels, on a machine that has only Python.

The product does not import it and its wheel does not hold it (tests and bench/ use it): production brings its own
servers and process manager.
"""
