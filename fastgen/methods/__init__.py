"""Every distillation method; importing this package makes each known to the command line by its class name."""

from fastgen.distiller.base import Distiller
from fastgen.methods.adversarial.add import ADD
from fastgen.methods.adversarial.adm import ADM
from fastgen.methods.adversarial.adp import ADP
from fastgen.methods.adversarial.gdd import GDD
from fastgen.methods.adversarial.ladd import LADD
from fastgen.methods.adversarial.without_distillation import WithoutDistillation
from fastgen.methods.consistency.cd import CD
from fastgen.methods.consistency.ct import CT
from fastgen.methods.consistency.hyper_sd import HyperSD
from fastgen.methods.consistency.ict import ICT
from fastgen.methods.consistency.mcm import MCM
from fastgen.methods.consistency.pcm import PCM
from fastgen.methods.consistency.scflow import SCFlow
from fastgen.methods.consistency.scott import SCott
from fastgen.methods.consistency.tbcm import TBCM
from fastgen.methods.consistency.tcm import TCM
from fastgen.methods.consistency.tdd import TDD
from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.methods.distribution_matching.data_forcing import DataForcing
from fastgen.methods.distribution_matching.decoupled_dmd import DecoupledDMD
from fastgen.methods.distribution_matching.diff_instruct import DiffInstruct
from fastgen.methods.distribution_matching.disback import DisBack
from fastgen.methods.distribution_matching.dmd import DMD
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.methods.distribution_matching.emd import EMD
from fastgen.methods.distribution_matching.f_distill import FDistill
from fastgen.methods.distribution_matching.phased_dmd import PhasedDMD
from fastgen.methods.distribution_matching.swiftbrush import SwiftBrush
from fastgen.methods.distribution_matching.tdm import TDM
from fastgen.methods.few_step.amd import AMD
from fastgen.methods.few_step.cdm import CDM
from fastgen.methods.few_step.dp_dmd import DPDMD
from fastgen.methods.few_step.k_dmd import KDMD
from fastgen.methods.few_step.one_x_distill import OneXDistill
from fastgen.methods.few_step.sd35_flash import SD35Flash
from fastgen.methods.few_step.sense_flow import SenseFlow
from fastgen.methods.few_step.swd import SwD
from fastgen.methods.flow_maps.base import FlowMapDistiller
from fastgen.methods.flow_maps.ect import ECT
from fastgen.methods.flow_maps.lcm import LCM
from fastgen.methods.flow_maps.mean_flow import MeanFlow
from fastgen.methods.flow_maps.scm import SCM
from fastgen.methods.flow_maps.self_distillation import LSD, PSD
from fastgen.methods.flow_maps.shortcut import Shortcut
from fastgen.methods.score_identity.few_step_sid import FewStepSiD
from fastgen.methods.score_identity.ibmd import IBMD
from fastgen.methods.score_identity.real_uid import RealUID
from fastgen.methods.score_identity.sgmd import SGMD
from fastgen.methods.score_identity.sid import SiD
from fastgen.methods.score_identity.sida import SiDA
from fastgen.methods.score_identity.sim import SIM
from fastgen.methods.score_identity.uni_instruct import UniInstruct
from fastgen.methods.solvers.base import SolverDistiller
from fastgen.methods.solvers.bespoke import Bespoke
from fastgen.methods.solvers.d_ode import DODE
from fastgen.methods.solvers.optimal_steps import OptimalSteps
from fastgen.methods.students.msd import MSD
from fastgen.methods.students.sdxs import SDXS
from fastgen.methods.students.wadi import WaDi
from fastgen.methods.teachers.teacher import TeacherTraining
from fastgen.methods.teachers.tsm import TSM
from fastgen.methods.trajectories.arc_flow import ArcFlow
from fastgen.methods.trajectories.base import TrajectoryDistiller
from fastgen.methods.trajectories.get import GET
from fastgen.methods.trajectories.kd import KD
from fastgen.methods.trajectories.pi_flow import PiFlow
from fastgen.methods.trajectories.progressive import Progressive
from fastgen.methods.trajectories.reflow import Reflow
from fastgen.methods.trajectories.rfpp import RFPP
from fastgen.methods.trajectories.sfd import SFD
from fastgen.methods.trajectories.sfddm import SFDDM
from fastgen.methods.trajectories.slim_flow import SlimFlow
from fastgen.methods.two_times.any_flow import AnyFlow
from fastgen.methods.two_times.ayf import AYF
from fastgen.methods.two_times.boot import BOOT
from fastgen.methods.two_times.ctm import CTM
from fastgen.methods.two_times.esd import ESD
from fastgen.methods.two_times.free_flow import FreeFlow
from fastgen.methods.two_times.imf import IMF
from fastgen.methods.two_times.imm import IMM
from fastgen.methods.two_times.mdt_dist import MDTDist
from fastgen.methods.two_times.restricted_mean_flow import RestrictedMeanFlow
from fastgen.methods.two_times.scfm import SCFM
from fastgen.methods.two_times.traflow import TraFlow
from fastgen.methods.two_times.tvm import TVM
from fastgen.methods.video.asd import ASD
from fastgen.methods.video.causal_consistency import CausalConsistency
from fastgen.methods.video.causvid import CausVid
from fastgen.methods.video.forcing import DiffusionForcing, TeacherForcing
from fastgen.methods.video.live_avatar import LiveAvatar
from fastgen.methods.video.matrix_game import MatrixGame
from fastgen.methods.video.ode_initialisation import ODEInitialisation
from fastgen.methods.video.reward_forcing import RewardForcing
from fastgen.methods.video.salt import Salt
from fastgen.methods.video.self_forcing import SelfForcing
from fastgen.methods.video.several_scales import LiveTalk, MotionStream, SeverallyGuided
from fastgen.methods.video.stream_dit import BufferedForcing, StreamDiT
from fastgen.methods.video.vdot import VDOT
from fastgen.methods.video.video_blade import VideoBLADE

__all__ = [
    "ADD",
    "ADM",
    "ADP",
    "AMD",
    "ASD",
    "AYF",
    "BOOT",
    "CD",
    "CDM",
    "CT",
    "CTM",
    "DMD",
    "DMD2",
    "DODE",
    "DPDMD",
    "ECT",
    "EMD",
    "ESD",
    "GDD",
    "GET",
    "IBMD",
    "ICT",
    "IMF",
    "IMM",
    "KD",
    "KDMD",
    "LADD",
    "LCM",
    "LSD",
    "MCM",
    "MSD",
    "PCM",
    "PSD",
    "RFPP",
    "SCFM",
    "SCM",
    "SDXS",
    "SFD",
    "SFDDM",
    "SGMD",
    "SIM",
    "TBCM",
    "TCM",
    "TDD",
    "TDM",
    "TSM",
    "TVM",
    "VDOT",
    "AnyFlow",
    "ArcFlow",
    "Bespoke",
    "BufferedForcing",
    "CausVid",
    "CausalConsistency",
    "DataForcing",
    "DecoupledDMD",
    "DiffInstruct",
    "DiffusionForcing",
    "DisBack",
    "Distiller",
    "FDistill",
    "FewStepSiD",
    "FlowMapDistiller",
    "FreeFlow",
    "HyperSD",
    "LiveAvatar",
    "LiveTalk",
    "MDTDist",
    "MatrixGame",
    "MeanFlow",
    "MotionStream",
    "ODEInitialisation",
    "OneXDistill",
    "OptimalSteps",
    "PhasedDMD",
    "PiFlow",
    "Progressive",
    "RealUID",
    "Reflow",
    "RestrictedMeanFlow",
    "RewardForcing",
    "SCFlow",
    "SCott",
    "SD35Flash",
    "Salt",
    "ScoreDistiller",
    "SelfForcing",
    "SenseFlow",
    "SeverallyGuided",
    "Shortcut",
    "SiD",
    "SiDA",
    "SlimFlow",
    "SolverDistiller",
    "StreamDiT",
    "SwD",
    "SwiftBrush",
    "TeacherForcing",
    "TeacherTraining",
    "TraFlow",
    "TrajectoryDistiller",
    "UniInstruct",
    "VideoBLADE",
    "WaDi",
    "WithoutDistillation",
]
