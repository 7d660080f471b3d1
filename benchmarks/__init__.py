"""Measurements of korsbert, and of what it competes with."""
