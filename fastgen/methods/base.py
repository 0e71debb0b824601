"""Where the base of every method was; see :mod:`fastgen.distiller.base`."""

from fastgen.distiller.base import Distiller

__all__ = ["Distiller"]
