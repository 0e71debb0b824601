"""Judges of pictures with captions: whether a caption finds its picture, what is seen, and what varies."""
