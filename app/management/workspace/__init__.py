"""The workspace itself: made by the operator, shown and changed over the API."""
