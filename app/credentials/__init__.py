"""Source keys and management tokens: format, signing, verification, cache and table; what a key's policies may hold."""
