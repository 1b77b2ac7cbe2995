"""Projects: domain, and routes over HTTP."""
