"""Every distillation method; importing this package makes each known to the command line by its class name."""

from fastgen.methods.base import Distiller
from fastgen.methods.dmd2 import DMD2
from fastgen.methods.score import ScoreDistiller
from fastgen.methods.sid import SiD
from fastgen.methods.teacher import TeacherTraining

__all__ = ["DMD2", "Distiller", "ScoreDistiller", "SiD", "TeacherTraining"]
