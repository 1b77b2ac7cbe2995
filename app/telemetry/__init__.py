"""What the process tells about itself: structured logs, the access log, and the metrics that it counts."""
