"""Measures reading: `python -m bench.reading`, on a database with as many events as one asks for."""
