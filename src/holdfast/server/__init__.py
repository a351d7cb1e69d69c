"""Servers: what turns bytes on a socket into calls of the application, and back."""
