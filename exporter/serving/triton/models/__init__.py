"""Models of Triton's python backend: data of this package, copied into repositories and run there."""
