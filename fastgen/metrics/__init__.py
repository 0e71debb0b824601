"""Metrics: exact ones for known laws, features-based ones for images; every suite shows fidelity beside coverage."""

from fastgen.metrics.accuracy import ClassAccuracy
from fastgen.metrics.base import MetricSuite, SampleMetric
from fastgen.metrics.centre_crop import CentreCrop
from fastgen.metrics.classifier import DigitsClassifier
from fastgen.metrics.cmmd import CMMD
from fastgen.metrics.features import FeatureExtractor, Pixels
from fastgen.metrics.frechet import FrechetDistance, FrechetRatio, frechet_distance
from fastgen.metrics.inception_score import InceptionScore
from fastgen.metrics.kernel import KernelDistance
from fastgen.metrics.mixture import LawKernelDistance, LawLikelihood, ModeCoverage, WassersteinDistance
from fastgen.metrics.precision_recall import PrecisionRecall
from fastgen.metrics.reference import Reference, read_reference, write_reference
from fastgen.metrics.suites import CombinedMetrics, ImageMetrics, MixtureMetrics
from fastgen.metrics.vendi import VendiScore

__all__ = [
    "CMMD",
    "CentreCrop",
    "ClassAccuracy",
    "CombinedMetrics",
    "DigitsClassifier",
    "FeatureExtractor",
    "FrechetDistance",
    "FrechetRatio",
    "ImageMetrics",
    "InceptionScore",
    "KernelDistance",
    "LawKernelDistance",
    "LawLikelihood",
    "MetricSuite",
    "MixtureMetrics",
    "ModeCoverage",
    "Pixels",
    "PrecisionRecall",
    "Reference",
    "SampleMetric",
    "VendiScore",
    "WassersteinDistance",
    "frechet_distance",
    "read_reference",
    "write_reference",
]
