"""Distances to laws that are known exactly."""
