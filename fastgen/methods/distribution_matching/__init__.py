"""First-order score distillation: the score difference as a gradient on samples."""
