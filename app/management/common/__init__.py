"""What the resources share: authentication, look-up, mutations, idempotency, pages, schemas, OpenAPI."""
