"""What the worker does for callers: jobs over the events of a project, each in short turns.

A job is a row (app/models/job.py); the routes that make, show and cancel jobs are in app/events. All that a turn has
done is in the row when it ends, so a worker that is killed costs one turn.

kinds (which jobs there are) ─► turns (whose turn it is, and how a turn ends)
"""
