"""Holds the product to its OpenAPI document: a fuzzer (schemathesis) and generated clients."""
