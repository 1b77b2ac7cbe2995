"""HTTP that all routes share: the body of a request, its log line, errors as answers, OpenAPI, health, pages."""
