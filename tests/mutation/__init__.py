"""Mutation testing: small changes to the source, one at a time, and which of them the unit tests notice.

``python -m tests.mutation`` runs it; ``__main__`` says how.
"""
