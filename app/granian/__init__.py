"""The adapter between granian's RSGI and the WSGI application; README.md says why, and how to do without."""
