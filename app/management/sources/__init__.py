"""Sources of an environment, and the keys that they are made with."""
