"""Families of text-to-image transformers, each in one file; what they share is in ``base``."""
