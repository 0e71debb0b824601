"""Every distillation method; importing this package makes each known to the command line by its class name."""

from fastgen.methods.base import Distiller
from fastgen.methods.dmd2 import DMD2
from fastgen.methods.gdd import GDD
from fastgen.methods.kd import KD
from fastgen.methods.optimal_steps import OptimalSteps
from fastgen.methods.pi_flow import PiFlow
from fastgen.methods.progressive import Progressive
from fastgen.methods.reflow import Reflow
from fastgen.methods.score import ScoreDistiller
from fastgen.methods.sid import SiD
from fastgen.methods.teacher import TeacherTraining
from fastgen.methods.trajectory import TrajectoryDistiller

__all__ = [
    "DMD2",
    "GDD",
    "KD",
    "Distiller",
    "OptimalSteps",
    "PiFlow",
    "Progressive",
    "Reflow",
    "ScoreDistiller",
    "SiD",
    "TeacherTraining",
    "TrajectoryDistiller",
]
