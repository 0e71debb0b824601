"""Metrics: exact ones for known laws, features-based ones for images; every suite shows fidelity beside coverage."""

from fastgen.metrics.accuracy import ClassAccuracy
from fastgen.metrics.base import MetricSuite, SampleMetric
from fastgen.metrics.classifier import DigitsClassifier
from fastgen.metrics.features import FeatureExtractor, Pixels
from fastgen.metrics.frechet import FrechetDistance, FrechetRatio, frechet_distance
from fastgen.metrics.kernel import KernelDistance
from fastgen.metrics.mixture import LawKernelDistance, LawLikelihood, ModeCoverage, WassersteinDistance
from fastgen.metrics.precision_recall import PrecisionRecall
from fastgen.metrics.suites import ImageMetrics, MixtureMetrics

__all__ = [
    "ClassAccuracy",
    "DigitsClassifier",
    "FeatureExtractor",
    "FrechetDistance",
    "FrechetRatio",
    "ImageMetrics",
    "KernelDistance",
    "LawKernelDistance",
    "LawLikelihood",
    "MetricSuite",
    "MixtureMetrics",
    "ModeCoverage",
    "Pixels",
    "PrecisionRecall",
    "SampleMetric",
    "WassersteinDistance",
    "frechet_distance",
]
