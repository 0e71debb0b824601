"""Regression on what a solver makes of noise."""
