"""The control plane: the management API of workspaces, projects, environments, sources, keys and tokens.

A folder per resource: domain.py (views, mutations, queries), schemas.py (its bodies), routes.py (its operations).
common/ is what they share. Only routes, schemas and what common/ says of them know HTTP.
docs/adding-a-resource.md goes through the steps.
"""
