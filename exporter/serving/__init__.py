"""A bundle -> what a server wants to find, one package per server."""
