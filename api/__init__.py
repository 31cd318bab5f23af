"""The HTTP face: routes, authentication and the error envelope."""
