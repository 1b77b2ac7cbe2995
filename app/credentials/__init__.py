"""Source keys and management tokens: format, signing, verification, cache; and what a key's policies may hold."""
