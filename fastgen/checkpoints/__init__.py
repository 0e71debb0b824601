"""Checkpoints: read without running anything, looked at before they are taken, sealed."""
