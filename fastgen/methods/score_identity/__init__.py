"""Second-order score distillation, with gradients through the scores."""
