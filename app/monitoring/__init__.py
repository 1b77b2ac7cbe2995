"""What operators and their monitoring see: /metrics, `flask status`, and the facts and bounds behind both.

What processes count is counted where it happens, with app/telemetry/metrics.py; here it is told.
"""
