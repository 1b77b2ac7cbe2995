"""Counts a project's events in buckets of time and by group, as many as a search finds.

routes ─► domain ─► buckets (a range cut by a time zone's clocks), groups (what an event is counted under)
─► reading: hourly counts (rollup), the skip index, or rows ─► sums
"""
