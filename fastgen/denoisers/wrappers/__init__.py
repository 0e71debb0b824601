"""Denoisers that ask other denoisers."""
