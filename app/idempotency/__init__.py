"""Idempotency keys, once for single events, batches and the management API: header, fingerprint, claim.

A single event's claim is made by store_events (app/database/sql/store_events.sql), in the statement that stores it.
"""
