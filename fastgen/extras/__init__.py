"""Loss terms that any method can carry."""

from fastgen.extras.base import Extra
from fastgen.extras.gan import GAN

__all__ = ["GAN", "Extra"]
