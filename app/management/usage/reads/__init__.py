"""What was read, by whom: the counts that app/counting/reads.py writes."""
