"""HTTP that ingest and management share: request context, bodies, errors, OpenAPI, health checks, pages."""
