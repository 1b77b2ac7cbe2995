"""Consumers: the places of those who follow a project's feed, kept on the server under a name.

routes ─► reading (the next page) ─► feed
       ├► positions (commit, seek) ─► places
       ├► domain (make, list, read, delete)
       └► lag (how far behind)

At least once: read a page, do the work, commit its cursor. Who stops in between is shown the page again.
"""
