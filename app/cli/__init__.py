"""The operator's commands, `flask --app wsgi …`: a file per noun. They act on every workspace."""
