"""Distances of samples to the data, of the student and of its teacher."""

from fastgen.callbacks.evaluation.evaluate import Evaluate

__all__ = ["Evaluate"]
