"""Distil diffusion and flow teachers into students that need one to eight network calls."""

__version__ = "0.1.0"
