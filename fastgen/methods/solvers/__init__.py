"""Better solvers in place of training."""
