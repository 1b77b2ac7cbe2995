"""The events of a project in one order, page after page, and requests that wait for the next one.

routes ─► following (one request) ─► domain (a page) ─► statements, transactions
followers (all that wait in a process) ─► news (what is there for whom)
shared_answers (many followers of a feed at once) ─► known (where they go on), short_pages
middleware: waits on the threads of a WSGI server; app/granian waits on its event loop
"""
