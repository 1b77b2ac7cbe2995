"""The adapter between granian and the WSGI application. It can be deleted: README.md says how."""
