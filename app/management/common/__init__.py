"""What the resources of the management API share: operators, lookup, mutations, idempotency, pages, OpenAPI."""
