"""Distances and scores of samples by features."""
