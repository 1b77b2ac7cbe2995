"""Reads what was stored: one event, search, counts, feed. It knows nothing of how events come in.

replays/ takes down what is to be stored again; app/jobs does it.
"""
