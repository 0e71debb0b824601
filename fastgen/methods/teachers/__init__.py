"""The training of many-step networks."""
