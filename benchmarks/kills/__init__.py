"""Runs that are killed, at any moment and inside writes, and resumed."""
