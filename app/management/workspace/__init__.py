"""The workspace itself: created by the operator's shell, shown and changed over the API."""
