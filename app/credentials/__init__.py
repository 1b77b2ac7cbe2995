"""Source keys and management tokens: their format, their proof, what is remembered of it, and what a key may do."""
