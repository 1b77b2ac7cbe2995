"""Clients that others' generators make of the OpenAPI document: generated, compiled, and led through a whole life."""
