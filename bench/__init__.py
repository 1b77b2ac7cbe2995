"""Figures that docs and comments give, measured: each has its command here."""
