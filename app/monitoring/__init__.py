"""What operators and their monitoring see: /metrics, `flask status`, and the status and bounds behind both.

Processes count with app/telemetry/metrics.py; here the counts are exposed.
"""
