"""Metrics: exact ones for known laws, features-based ones for images; every suite shows fidelity beside coverage."""

from fastgen.metrics.accuracy import ClassAccuracy
from fastgen.metrics.base import MetricSuite, SampleMetric
from fastgen.metrics.classifier import DigitsClassifier
from fastgen.metrics.cmmd import CMMD
from fastgen.metrics.combined_suite import CombinedMetrics
from fastgen.metrics.duplicates import DuplicateRate
from fastgen.metrics.feature_metric import FeatureMetric, Features
from fastgen.metrics.features import FeatureExtractor
from fastgen.metrics.frechet import FrechetDistance, FrechetRatio, frechet_distance
from fastgen.metrics.image_suite import ImageMetrics
from fastgen.metrics.inception import Inception, NvidiaInception
from fastgen.metrics.inception_score import InceptionScore
from fastgen.metrics.kernel import KernelDistance
from fastgen.metrics.law_metric import LawMetric
from fastgen.metrics.mixture import LawAccuracy, LawKernelDistance, LawLikelihood, ModeCoverage, WassersteinDistance
from fastgen.metrics.mixture_suite import MixtureMetrics
from fastgen.metrics.open_clip_features import OpenClipFeatures
from fastgen.metrics.perceptual import PairwiseLPIPS, TeacherAlignment
from fastgen.metrics.picture_metric import PictureMetric, Pictures
from fastgen.metrics.plumbing import Pixels, RandomConvolutions
from fastgen.metrics.precision_recall import PrecisionRecall
from fastgen.metrics.reference import Reference, read_reference, write_reference
from fastgen.metrics.text_image import AestheticScore, CLIPScore, HPSv2, PickScore
from fastgen.metrics.text_suite import TextImageMetrics
from fastgen.metrics.timm_features import DinoV2, TimmFeatures
from fastgen.metrics.vendi import VendiScore
from fastgen.metrics.wrappers import CentreCrop, Resized

__all__ = [
    "CMMD",
    "AestheticScore",
    "CLIPScore",
    "CentreCrop",
    "ClassAccuracy",
    "CombinedMetrics",
    "DigitsClassifier",
    "DinoV2",
    "DuplicateRate",
    "FeatureExtractor",
    "FeatureMetric",
    "Features",
    "FrechetDistance",
    "FrechetRatio",
    "HPSv2",
    "ImageMetrics",
    "Inception",
    "InceptionScore",
    "KernelDistance",
    "LawAccuracy",
    "LawKernelDistance",
    "LawLikelihood",
    "LawMetric",
    "MetricSuite",
    "MixtureMetrics",
    "ModeCoverage",
    "NvidiaInception",
    "OpenClipFeatures",
    "PairwiseLPIPS",
    "PickScore",
    "PictureMetric",
    "Pictures",
    "Pixels",
    "PrecisionRecall",
    "RandomConvolutions",
    "Reference",
    "Resized",
    "SampleMetric",
    "TeacherAlignment",
    "TextImageMetrics",
    "TimmFeatures",
    "VendiScore",
    "WassersteinDistance",
    "frechet_distance",
    "read_reference",
    "write_reference",
]
