"""Clients by widely used generators: generated from the OpenAPI document, compiled, and run against the product."""
