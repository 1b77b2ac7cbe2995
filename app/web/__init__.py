"""What people see in a browser: the page at `/` and the API's documentation at `/docs`."""
