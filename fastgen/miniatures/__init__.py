"""Miniatures: small teachers in the released formats, and what trains their parts."""
