"""Turns bytes and headers into values, and knows no framework."""
