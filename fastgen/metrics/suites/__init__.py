"""Metrics that are measured together, of one kind of sample."""
