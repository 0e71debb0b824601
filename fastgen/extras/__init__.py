"""Loss terms that any method can carry."""

from fastgen.distiller.extra import Extra
from fastgen.extras.backbones import Backbone, DigitsBackbone, TimmBackbone
from fastgen.extras.distribution_matching import DistributionMatching
from fastgen.extras.embedding_loss import EL
from fastgen.extras.few_step_teacher import FewStepTeacher
from fastgen.extras.first_step_anchor import FirstStepAnchor
from fastgen.extras.gan import GAN
from fastgen.extras.implicit_alignment import ImplicitAlignment
from fastgen.extras.intra_segment_guidance import IntraSegmentGuidance
from fastgen.extras.paired_regression import LPIPS, PairedRegression, PerceptualDistance
from fastgen.extras.real_states import RealStates
from fastgen.extras.reward import DigitLogProbability, Reward, RewardModel
from fastgen.extras.score_pair_gan import ScorePairGAN
from fastgen.extras.shared_encoder import SharedEncoder
from fastgen.extras.statistics_shield import StatisticsShield
from fastgen.extras.token_mmd import TokenMMD
from fastgen.extras.video.self_pair import SelfPair
from fastgen.extras.video.semigroup_defect import SemigroupDefect
from fastgen.extras.vision_gan import VisionGAN

__all__ = [
    "EL",
    "GAN",
    "LPIPS",
    "Backbone",
    "DigitLogProbability",
    "DigitsBackbone",
    "DistributionMatching",
    "Extra",
    "FewStepTeacher",
    "FirstStepAnchor",
    "ImplicitAlignment",
    "IntraSegmentGuidance",
    "PairedRegression",
    "PerceptualDistance",
    "RealStates",
    "Reward",
    "RewardModel",
    "ScorePairGAN",
    "SelfPair",
    "SemigroupDefect",
    "SharedEncoder",
    "StatisticsShield",
    "TimmBackbone",
    "TokenMMD",
    "VisionGAN",
]
