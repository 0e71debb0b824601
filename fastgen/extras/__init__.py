"""Loss terms that any method can carry."""

from fastgen.distiller.extra import Extra
from fastgen.extras.distribution_matching import DistributionMatching
from fastgen.extras.embedding_loss import EL
from fastgen.extras.gan import GAN
from fastgen.extras.reward import DigitLogProbability, Reward, RewardModel
from fastgen.extras.shared_encoder import SharedEncoder

__all__ = [
    "EL",
    "GAN",
    "DigitLogProbability",
    "DistributionMatching",
    "Extra",
    "Reward",
    "RewardModel",
    "SharedEncoder",
]
