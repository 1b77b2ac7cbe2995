"""Sources of an environment."""
