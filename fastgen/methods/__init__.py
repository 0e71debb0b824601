"""Every distillation method; importing this package makes each known to the command line by its class name."""

from fastgen.methods.base import Distiller
from fastgen.methods.dmd2 import DMD2
from fastgen.methods.ect import ECT
from fastgen.methods.flow_map import FlowMapDistiller
from fastgen.methods.lcm import LCM
from fastgen.methods.mean_flow import MeanFlow
from fastgen.methods.scm import SCM
from fastgen.methods.score import ScoreDistiller
from fastgen.methods.shortcut import Shortcut
from fastgen.methods.sid import SiD
from fastgen.methods.teacher import TeacherTraining

__all__ = [
    "DMD2",
    "ECT",
    "LCM",
    "SCM",
    "Distiller",
    "FlowMapDistiller",
    "MeanFlow",
    "ScoreDistiller",
    "Shortcut",
    "SiD",
    "TeacherTraining",
]
