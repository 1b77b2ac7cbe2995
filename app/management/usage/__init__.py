"""Reading what was counted of ingest."""
