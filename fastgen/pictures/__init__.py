"""Samples as pictures, strips and videos."""
