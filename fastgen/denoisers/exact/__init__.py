"""Denoisers that are known in closed form."""
