"""Every distillation method; importing this package makes each known to the command line by its class name."""

from fastgen.methods.base import Distiller
from fastgen.methods.decoupled_dmd import DecoupledDMD
from fastgen.methods.diff_instruct import DiffInstruct
from fastgen.methods.dmd2 import DMD2
from fastgen.methods.ect import ECT
from fastgen.methods.f_distill import FDistill
from fastgen.methods.few_step_sid import FewStepSiD
from fastgen.methods.flow_map import FlowMapDistiller
from fastgen.methods.gdd import GDD
from fastgen.methods.kd import KD
from fastgen.methods.lcm import LCM
from fastgen.methods.mean_flow import MeanFlow
from fastgen.methods.optimal_steps import OptimalSteps
from fastgen.methods.phased_dmd import PhasedDMD
from fastgen.methods.pi_flow import PiFlow
from fastgen.methods.progressive import Progressive
from fastgen.methods.reflow import Reflow
from fastgen.methods.scm import SCM
from fastgen.methods.score import ScoreDistiller
from fastgen.methods.self_distillation import LSD, PSD
from fastgen.methods.shortcut import Shortcut
from fastgen.methods.sid import SiD
from fastgen.methods.swiftbrush import SwiftBrush
from fastgen.methods.tdm import TDM
from fastgen.methods.teacher import TeacherTraining
from fastgen.methods.trajectory import TrajectoryDistiller

__all__ = [
    "DMD2",
    "ECT",
    "GDD",
    "KD",
    "LCM",
    "LSD",
    "PSD",
    "SCM",
    "TDM",
    "DecoupledDMD",
    "DiffInstruct",
    "Distiller",
    "FDistill",
    "FewStepSiD",
    "FlowMapDistiller",
    "MeanFlow",
    "OptimalSteps",
    "PhasedDMD",
    "PiFlow",
    "Progressive",
    "Reflow",
    "ScoreDistiller",
    "Shortcut",
    "SiD",
    "SwiftBrush",
    "TeacherTraining",
    "TrajectoryDistiller",
]
