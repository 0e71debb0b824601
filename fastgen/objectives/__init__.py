"""Losses and targets as pure functions of tensors; nothing here knows Lightning or a network."""
