"""Students that learn where the probability flow leads."""
