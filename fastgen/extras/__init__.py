"""Loss terms that any method can carry."""

from fastgen.extras.base import Extra
from fastgen.extras.gan import GAN
from fastgen.extras.reward import DigitLogProbability, Reward, RewardModel

__all__ = ["GAN", "DigitLogProbability", "Extra", "Reward", "RewardModel"]
