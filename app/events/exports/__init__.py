"""Export files: asked for over the API, written by the worker (app/jobs/export.py), kept for a week.

routes → schemas → domain; files (what a file is called, and which are kept) is for the worker too.
"""
