"""A server as a side."""
