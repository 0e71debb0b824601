"""Metrics: exact ones for known laws, features-based ones for images; every suite shows fidelity beside coverage."""

from fastgen.metrics.base import MetricSuite, SampleMetric
from fastgen.metrics.extractors.classifier import DigitsClassifier
from fastgen.metrics.extractors.features import FeatureExtractor
from fastgen.metrics.extractors.inception import Inception, NvidiaInception
from fastgen.metrics.extractors.open_clip_features import OpenClipFeatures
from fastgen.metrics.extractors.timm_features import DinoV2, TimmFeatures
from fastgen.metrics.extractors.toy_features import Pixels, RandomConvolutions
from fastgen.metrics.extractors.wrappers import CentreCrop, Resized
from fastgen.metrics.judge.base import CaptionJudge
from fastgen.metrics.judge.captions import (
    AttributeAccuracy,
    CaptionMetric,
    CaptionRetrieval,
    UnsaidDiversity,
)
from fastgen.metrics.judge.emoji_judge import EmojiJudge
from fastgen.metrics.laws.clips import ClipDistance
from fastgen.metrics.laws.law_metric import LawMetric
from fastgen.metrics.laws.mixture import (
    LawAccuracy,
    LawKernelDistance,
    LawLikelihood,
    ModeCoverage,
    WassersteinDistance,
)
from fastgen.metrics.samples.accuracy import ClassAccuracy
from fastgen.metrics.samples.cmmd import CMMD
from fastgen.metrics.samples.duplicates import DuplicateRate
from fastgen.metrics.samples.feature_metric import FeatureMetric, Features
from fastgen.metrics.samples.frechet import FrechetDistance, FrechetRatio, frechet_distance
from fastgen.metrics.samples.inception_score import InceptionScore
from fastgen.metrics.samples.kernel import KernelDistance
from fastgen.metrics.samples.picture_metric import PictureMetric, Pictures
from fastgen.metrics.samples.precision_recall import PrecisionRecall
from fastgen.metrics.samples.reference import Reference, read_reference, write_reference
from fastgen.metrics.samples.vendi import VendiScore
from fastgen.metrics.suites.clip_suite import ClipMetrics
from fastgen.metrics.suites.combined_suite import CombinedMetrics
from fastgen.metrics.suites.emoji_suite import EmojiMetrics
from fastgen.metrics.suites.image_suite import ImageMetrics
from fastgen.metrics.suites.mixture_suite import MixtureMetrics
from fastgen.metrics.suites.text_suite import TextImageMetrics
from fastgen.metrics.text.perceptual import PairwiseLPIPS, TeacherAlignment
from fastgen.metrics.text.text_image import AestheticScore, CLIPScore, HPSv2, PickScore

__all__ = [
    "CMMD",
    "AestheticScore",
    "AttributeAccuracy",
    "CLIPScore",
    "CaptionJudge",
    "CaptionMetric",
    "CaptionRetrieval",
    "CentreCrop",
    "ClassAccuracy",
    "ClipDistance",
    "ClipMetrics",
    "CombinedMetrics",
    "DigitsClassifier",
    "DinoV2",
    "DuplicateRate",
    "EmojiJudge",
    "EmojiMetrics",
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
    "UnsaidDiversity",
    "VendiScore",
    "WassersteinDistance",
    "frechet_distance",
    "read_reference",
    "write_reference",
]
