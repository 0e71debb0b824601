"""The numbers that papers and official codes give, as defaults of methods, laws, extras, callbacks and metrics.

Every method, law and metric is here; where a source has no number, the default is the library's own and its change a
decision that shows here too.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from operator import attrgetter
from typing import Any

import pytest
from every_method import METHODS, SPECIAL
from toys import build

import fastgen.metrics
from fastgen.callbacks import ema
from fastgen.callbacks.evaluation import Evaluate
from fastgen.callbacks.health import Health
from fastgen.conditions import Guidance
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher
from fastgen.denoisers.wrappers.policies import DX, GMFlow
from fastgen.denoisers.wrappers.several_conditions import JointScales, SeveralScales
from fastgen.errors import UserError
from fastgen.extras import (
    EL,
    GAN,
    LPIPS,
    DigitsBackbone,
    DistributionMatching,
    ImplicitAlignment,
    PairedRegression,
    Reward,
    StatisticsShield,
    VisionGAN,
)
from fastgen.methods import FlowMapDistiller
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.transition import Transition
from fastgen.methods.flow_maps.velocity import MixedVelocity, Velocity
from fastgen.metrics import (
    AttributeAccuracy,
    CaptionRetrieval,
    ClassAccuracy,
    ClipDistance,
    FrechetDistance,
    FrechetRatio,
    KernelDistance,
    LawAccuracy,
    LawKernelDistance,
    LawLikelihood,
    ModeCoverage,
    PrecisionRecall,
    UnsaidDiversity,
    WassersteinDistance,
)
from fastgen.objectives.metrics import Metric, SquaredError
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.tangents import Derivative, FiniteDifference
from fastgen.processes import EDM, VP, Process, RectifiedFlow, TrigFlow
from fastgen.sampling.samplers import Sampler
from fastgen.sampling.solvers import Solver
from fastgen.times import (
    DoublingLevels,
    FlowTime,
    JumpLaw,
    LogitNormalTime,
    LogNormalLevel,
    SquareRootLevels,
    TimeLaw,
    TruncatedLevel,
)

PARTS = (SeveralScales, TimeLaw, JumpLaw, Sampler, Solver, DenoisingLoss, Metric, Velocity, Transition, Process)


def shown(value: Any) -> Any:
    """A part with its settings as text, a plain value as it is."""
    if isinstance(value, PARTS) or type(value).__module__.startswith("fastgen."):
        own = {k: v for k, v in vars(value).items() if not k.startswith("_") and k not in ("t_max", "needs_teacher")}
        return f"{type(value).__name__}({', '.join(f'{k}={shown(v)}' for k, v in sorted(own.items()))})"
    return value


EDM_LAW = "LogNormalLevel(mean=-1.2, std=1.2)"
DMD_LAW = "UniformTime(high=0.98, low=0.02)"
ALL_LEVELS = "UniformTime(high=1.0, low=0.0)"
ONE_CALL = "{}Sampler(gradient_calls=1, level=max, steps=1, stop=random, times=grid)"
AT = "RenoiseSampler(gradient_calls=1, level={}, steps=1, stop=random, times=grid)"
EDM_LOSS = "DenoisingLoss(reduction={}, target=x0, weight=EDMWeight(sigma_data=0.5))"
FOUR_CALLS = "{0}Sampler(gradient_calls={2}, level=max, steps=4, stop={1}, times=grid)"
SHIFTED = "SharedLevel(law=FlowTime(high=1.0, low=0.001, shift=3.0))"
SWD_LAW = f"FlowTime(high={{}}, low={1 / 28}, shift=3.0)"
FLOW_LOSS = "DenoisingLoss(reduction=mean, target=velocity, weight=UniformWeight())"
TURNS = "UpdateSchedule(critic_first={}, critic_updates={}, exclusive=False, reuse_rollout={}, student_start=0)"
SCALES = "Guidance(condition_dropout={}, critic={}, critic_training={}, teacher={})"
UNGUIDED = SCALES.format(0.0, 1.0, 1.0, 1.0)
TEACHER_UNGUIDED = "TeacherGuidance(embedded=False, high=low, low=1.0, power=0.0, sampling=middle)"
SEGMENT = "WithinChain(floor=0.02, high={}, low={}, margin=0.0, shift=1.0)"
SHIFTED_BY_5 = f"FlowTime(high={0.98 / 1.08}, low={0.02 / 4.92}, shift=5.0)"
CODE = {"renoise_time": DMD_LAW, "critic_time": ALL_LEVELS, "sampler": ONE_CALL.format("Renoise")}
DMD2 = CODE | {
    "critic_objective": EDM_LOSS.format("mean"),
    "guidance": UNGUIDED,
    "schedule": TURNS.format(False, 5, True),
}
MEAN_FLOW_LAW = "SortedTimes(diagonal=0.75, law=LogitNormalTime(mean=-0.4, std=1.0), middle=0.5, to_data=0.0)"
UNIFORM_PAIRS = "SortedTimes(diagonal=0.75, law=FlowTime(high=1.0, low=0.01, shift=1.0), middle=0.5, to_data=0.0)"
MAP = {
    "states": "RealData()",
    "velocity": "DataVelocity()",
    "guidance": TEACHER_UNGUIDED,
    "condition_dropout": 0.0,
    "target": "StudentTarget()",
}
JUMP = MAP | {"sampler": ONE_CALL.format("Jump"), "coordinates": "RectifiedFlow(shift=1.0)"}
EASY = "EasyTimes(b=1.0, double=25000, k=8.0, largest_ratio=0.999, law=LogNormalLevel(mean=-1.1, std=2.0), q=2.0)"
TRUNCATED = "TruncatedLevel(freedom=0.01, high=80.0, low=1.0, mean=0.0, scale=0.2)"
DISTILLED = MAP | {
    "transition": "TeacherStep(solver=Euler(guidance=1.0, steps=18))",
    "metric": "ElementwiseHuber(c=0.001)",
    "weight": "UniformWeight()",
}
SQUARE_ROOT = "SquareRootLevels(first=2, last=200, updates=800000)"
PAIRS = {"sampler": ONE_CALL.format("Jump"), "solver": "Heun(guidance=1.0, steps=18)"}
SCM = MAP | {
    "times": "ToData(law=LogNormalLevel(mean=-1.0, std=1.4))",
    "velocity": "TeacherVelocity()",
    "coordinates": "TrigFlow(sigma_data=0.5)",
    "warmup": 10000,
    "c": 0.1,
    "per_element": False,
    "learned_weight": True,
    "sampler": ONE_CALL.format("Renoise"),
}
REGRESSION = "SquaredError(reduction=mean, scale=0.5)"

CHUNKS = (
    "ChunkSampler(cache=FullCache(), chunk=network, context_noise=0.0, exits=same, first_times=same, gradient_calls=1, "
    "gradient_frames=0, length=0, level=max, steps=4, stop=random, through_memory=False, times=grid)"
)
REMEMBERING = CHUNKS.replace("FullCache()", "{}")
CLAMPED = "ClampedTime(high=0.98, law=FlowTime(high=0.999, low=0.0, shift={}), low=0.02)"
SELF_FORCING = {  # 2506.08009, guandeh17/Self-Forcing
    "form": "DMDForm()",
    "sampler": CHUNKS,
    "renoise_time": CLAMPED.format(5.0),
    "critic_time": CLAMPED.format(5.0),
    "critic_objective": FLOW_LOSS,
    "guidance": SCALES.format(0.0, 1.0, 1.0, 4.0),
    "schedule": TURNS.format(False, 5, False),
    "gradient_clip": 10.0,
}
CAUSAL_TEACHER = {  # DiffSynth's weight, thu-ml/Causal-Forcing
    "objective": "DenoisingLoss(reduction=mean, target=velocity, weight=BellWeight(shift=5.0))",
    "time": "FlowTime(high=1.0, low=0.001, shift=5.0)",
    "cache": "FullCache()",
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "SelfForcing": SELF_FORCING,
    "CausVid": SELF_FORCING
    | {
        "renoise_time": CLAMPED.format(8.0),
        "critic_time": CLAMPED.format(8.0),
        "guidance": SCALES.format(0.0, 1.0, 1.0, 4.5),
        "clean_frames": True,
    },  # 2412.07772, tianweiy/CausVid
    "RewardForcing": SELF_FORCING
    | {"beta": 2.0, "limit": 5.0}
    | {"sampler": REMEMBERING.format("EMASink(decay=0.999, positions=slot, sink=3, window=3)")},  # 2512.04678
    "LiveAvatar": SELF_FORCING
    | {"sampler": REMEMBERING.format("NoisyCache(positions=rolling, sink=1, window=12)")},  # 2512.04677
    "MotionStream": SELF_FORCING
    | {"guidance": UNGUIDED, "scales": "JointScales(scales={'label': 3.0, 'drive': 1.5})"}
    | {"sampler": REMEMBERING.format("WindowCache(positions=slot, sink=3, window=3)")},  # 2511.01266
    "LiveTalk": SELF_FORCING
    | {"guidance": UNGUIDED, "scales": "NestedScales(scales={'label': 6.0, 'drive': 6.0})"},  # 2512.23576
    "SeverallyGuided": SELF_FORCING | {"guidance": UNGUIDED},
    "Salt": SELF_FORCING  # 2604.03118, XingtongGe/Salt
    | {"extras.0.weight": 0.2, "extras.0.segments": 4, "extras.0.grid": 8}
    | {
        "sampler": CHUNKS.replace("ChunkSampler", "MixedChunkSampler").replace(
            "level=max", "level=max, numbers=(8, 4, 2), shares=(0.4, 0.4, 0.2)"
        )
    },
    "VDOT": SELF_FORCING
    | {"form": "TransportForm(channels=0, epsilon=0.05, iterations=50, matching=1.0)"},  # epsilon: not verified
    "MatrixGame": SELF_FORCING  # 2604.08995: derived
    | {
        "sampler": REMEMBERING.format("WindowCache(positions=slot, sink=1, window=4)")
        .replace("chunk=network", "chunk=10")
        .replace("exits=same", "exits=each")
    },
    "ASD": SELF_FORCING  # 2511.01419: the weight is not verified
    | {"extras.0.weight": 0.03, "extras.0.penalty": 600.0, "extras.0.move": 0.05, "extras.0.steps": 4}
    | {
        "sampler": CHUNKS.replace("ChunkSampler", "MixedChunkSampler")
        .replace("level=max", "level=max, numbers=(1, 2, 3, 4), shares=(1.0, 1.0, 1.0, 1.0)")
        .replace("steps=4, stop=random", "steps=2, stop=last")
    },
    "VideoBLADE": {  # 2508.10774, ziplab/VIDEO-BLADE
        "form": "DistanceForm(metric=ElementwiseHuber(c=0.001))",
        "sampler": "TrajectorySampler(level=max, steps=8, times=grid)",
        "renoise_time": SEGMENT.format("student", "anchor"),
        "critic_time": SEGMENT.format("student", "anchor"),
        "guidance": SCALES.format(0.0, 1.0, 1.0, 5.0),
        "snr_cap": 5.0,
    },
    "BufferedForcing": {"chunks": [1, 2, 4, 8, 16], "objective": FLOW_LOSS},  # 2507.03745
    "StreamDiT": {
        "chunk": 2,
        "micro_steps": 16,
        "sampler": "BufferSampler(chunk=2, steps=8)",
        "solver": "Euler(guidance=1.0, steps=128)",
        "metric": "SquaredError(reduction=mean, scale=1.0)",
    },
    "ODEInitialisation": {"sampler": CHUNKS, "states": "bidirectional", "clean_frames": True, "cache": "FullCache()"},
    "DiffusionForcing": CAUSAL_TEACHER,
    "TeacherForcing": CAUSAL_TEACHER | {"context_noise": 0.0},
    "CausalConsistency": {  # thu-ml/Causal-Forcing
        "sampler": CHUNKS,
        "times": "GridTimes(skip=1, steps=48)",
        "metric": "SquaredError(reduction=mean, scale=1.0)",
        "guidance": "TeacherGuidance(embedded=False, high=low, low=3.0, power=0.0, sampling=middle)",
        "target": "EMATarget(rule=ConstantEMA(decay=0.99))",
    },
    "ScoreDistiller": {"form": "DMDForm()", "renoise_time": DMD_LAW, "critic_time": EDM_LAW, "guidance": UNGUIDED},
    "DMD2": DMD2,  # 2405.14867, tianweiy/DMD2
    "DecoupledDMD": DMD2
    | {"guidance": SCALES.format(0.0, 1.0, 1.0, 4.0), "guidance_weight": 1.0, "matching_weight": 1.0}
    | {"guidance_time": SEGMENT.format("student", 0.0), "coupled": False}
    | {"normaliser": "shared", "floor": 0.0},  # 2511.22677
    "DMD": DMD2 | {"schedule": TURNS.format(False, 1, True), "extras.0.weight": 0.25},  # 2311.18828
    "SenseFlow": DMD2  # 2506.00523, XingtongGe/SenseFlow
    | {
        "data_share": 0.5,
        "sampler": FOUR_CALLS.format("Renoise", "random", 1),
        "critic_objective": FLOW_LOSS,
        "guidance": SCALES.format(0.0, 1.0, 1.0, 4.0),
        "schedule": TURNS.format(False, 10, True),
        "extras.0.decay": 0.98,
        "extras.0.follows": "student",
        "extras.1.weight": 0.5,
        "extras.1.low": 2.0,
        "extras.1.high": 4.0,
        "extras.1.time": "WithinChain(floor=0.0, high=student, low=anchor, margin=0.05, shift=1.0)",
        "extras.1.metric": "ElementwiseHuber(c=0.001)",
    },
    "DPDMD": {  # 2602.03139, dpdmd
        "sampler": FOUR_CALLS.format("Jump", "last", 3),
        "form": "NoisyGapForm()",
        "renoise_time": SHIFTED,
        "critic_time": SHIFTED,
        "critic_objective": FLOW_LOSS,
        "guidance": SCALES.format(0.0, 1.0, 1.0, 3.5),
        "schedule": "UpdateSchedule(critic_first=True, critic_updates=5, exclusive=True, reuse_rollout=False, "
        "student_start=5)",
        "extras.0.weight": 0.05,
        "extras.0.anchor": 10,
        "extras.0.solver": "Euler(guidance=3.5, steps=30)",
    },
    "CDM": {  # 2605.06376, byliutao/cdm
        "sampler": "RandomScheduleSampler(level=max, longest=28, steps=4, time=UniformTime(high=0.95, low=0.25), "
        "times=grid)",
        "off_time": ALL_LEVELS,
        "off_weight": 2.0,
        "matching_weight": 2.0,
        "guidance_weight": 2.0,
        "normaliser": "per_term",
        "floor": 0.1,
        "guidance_time": SEGMENT.format("student", 0.0),
        "renoise_time": DMD_LAW,
        "critic_time": DMD_LAW,
        "critic_objective": FLOW_LOSS,
        "guidance": SCALES.format(0.0, 1.0, 1.0, 8.0),
        "schedule": TURNS.format(True, 2, False),
        "extras.0.decay": 0.999,
        "extras.0.follows": "critic",
    },
    "OneXDistill": {  # 2604.04018, THU-AccDiff/1.x_distill
        "guided_below": 0.96,
        "form": "ColumnHuberForm(base=0.001)",
        "sampler": "TrajectorySampler(level=max, steps=4, times=grid)",
        "renoise_time": SEGMENT.format("student", "anchor"),
        "critic_time": SEGMENT.format("student", "anchor"),
        "critic_objective": FLOW_LOSS,
        "guidance": SCALES.format(0.0, 1.0, 1.0, 7.0),
        "schedule": TURNS.format(True, 1, False),
    },
    "AMD": DMD2  # 2602.07345; derived
    | {"guidance": SCALES.format(0.0, 1.0, 1.0, 4.0), "samples_per_condition": 4, "strength": 0.5, "sharpening": 0.5},
    "KDMD": DMD2  # 2601.08303
    | {
        "sampler": FOUR_CALLS.format("Renoise", "random", 1),
        "critic_objective": FLOW_LOSS,
        "schedule": TURNS.format(False, 1, True),
        "extras.0.weight": 1.0,
        "extras.0.feature_weight": 1.0,
    },
    "SwD": {  # 2503.16397, yandex-research/swd
        "sampler": "ScaleSampler(level=max, scales=(0.5, 0.625, 0.75, 1.0), steps=4, times=grid)",
        "renoise_time": SWD_LAW.format(16 / 28),
        "critic_time": SWD_LAW.format(1.0),
        "critic_objective": FLOW_LOSS.replace("velocity", "x0"),
        "guidance": SCALES.format(0.0, 1.0, 1.0, 7.0),
        "schedule": "UpdateSchedule(critic_first=True, critic_updates=5, exclusive=True, reuse_rollout=False, "
        "student_start=5)",
        "extras.0.weight": 1.0,
        "extras.0.distance.c": 1e-3,
        "extras.0.time": SWD_LAW.format(10 / 28),
    },
    "SD35Flash": DMD2  # 2509.21318
    | {
        "sampler": FOUR_CALLS.format("Jump", "random", 1),
        "renoise_time": "StudentLevels(noisier=False)",
        "critic_time": "StudentLevels(noisier=True)",
        "critic_objective": FLOW_LOSS,
        "guidance": SCALES.format(0.0, 1.0, 1.0, 4.5),
    },
    "FDistill": DMD2
    | {"divergence": "JensenShannon()", "memory": 0.0, "bin_axis": "position"},  # 2502.15681, NVlabs/FastGen
    "EMD": {  # 2405.16852: from memory
        "corrector": "Langevin(cancel=reference, latent_step=1.6e-05, noise_step=0.16, steps=8)",
        "renoise_time": EDM_LAW,
        "critic_time": EDM_LAW,
        "sampler": ONE_CALL.format("Renoise"),
    },
    "SGMD": {  # 2605.30116, ModelTC/LightX2V
        "form": "SGMForm(residual=0.1)",
        "sampler": ONE_CALL.format("Jump").replace("steps=1", "steps=4"),
        "renoise_time": SHIFTED_BY_5,
        "critic_time": SHIFTED_BY_5,
        "critic_objective": "DenoisingLoss(reduction=mean, target=velocity, weight=UniformWeight())",
        "guidance": SCALES.format(0.0, 1.0, 1.0, 3.0),
        "schedule": TURNS.format(False, 1, False),
    },
    "DataForcing": DMD2  # 2606.18478: derived
    | {"probability": 0.5, "pairing": "paired", "space": "x0", "forward_kl": False},
    "DisBack": DMD2  # 2408.15991, SYZhang0805/DisBack
    | {"schedule": TURNS.format(False, 5, True).replace("student_start=0", "student_start=2000")}
    | {"degradation": 2000, "snapshots": 5, "interval": 1000},
    "ADM": CODE  # 2507.18569
    | {"extras.0.step": 1 / 64, "extras.0.objective": "Hinge()", "extras.0.weight": 1.0}
    | {"schedule": TURNS.format(True, 1, False)},
    "ADP": {  # 2507.18569
        "time": "PowerTime(power=3.0)",
        "extras.0.time": ALL_LEVELS,
        "extras.0.weight": 0.85,
        "extras.0.objective": "Hinge()",
        "sampler": ONE_CALL.format("Renoise"),
    },
    "LADD": {  # 2403.12015: from memory; NVlabs/FastGen
        "extras.0.time": "LogitNormalTime(mean=1.0, std=1.0)",
        "extras.0.objective": "Hinge()",
        "sampler": ONE_CALL.format("Renoise").replace("steps=1", "steps=4"),
    },
    "ADD": {  # 2311.17042: from memory
        "distance": 2.5,
        "guidance": 1.0,
        "extras.0.r1_gamma": 1e-5,
        "extras.0.objective": "Hinge()",
        "sampler": ONE_CALL.format("Renoise").replace("steps=1", "steps=4"),
    },
    "WithoutDistillation": {  # 2502.08005: derived
        "extras.0.objective": "LogRatio(divergence=ReverseKL())",
        "extras.0.features": "own",
        "extras.0.time": ALL_LEVELS,
    },
    "MSD": DMD2 | {"router": "LabelRouter(parts=4)"},  # 2410.23274
    "TSM": {  # 2410.23274
        "objective": EDM_LOSS.format("mean"),
        "time": EDM_LAW,
        "condition_dropout": 0.0,
        "guidance": 1.0,
        "router": None,
    },
    "SDXS": {  # 2403.16627: derived
        "threshold": 0.7,
        "warmup": 5000,
        "fade": 5000,
        "matching": 1.0,
        "renoise_time": DMD_LAW,
        "critic_time": ALL_LEVELS,
    },
    "WaDi": {  # 2603.08258, gudaochangsheng/WaDi
        "renoise_time": DMD_LAW,
        "critic_time": ALL_LEVELS,
        "critic_objective": "DenoisingLoss(reduction=mean, target=noise, weight=VPSignalWeight())",
        "guidance": SCALES.format(0.1, 1.5, 1.0, 1.5),
        "schedule": TURNS.format(False, 1, True),
    },
    "DiffInstruct": {  # 2305.18455, pkulwj1994/diff_instruct
        "renoise_time": EDM_LAW,
        "critic_time": EDM_LAW,
        "sampler": AT.format(1.0),
        "critic_objective": EDM_LOSS.format("sum"),
        "guidance": UNGUIDED,
        "schedule": TURNS.format(True, 1, False),
    },
    "SiD": {  # 2404.04057, mingyuanzhou/SiD
        "form": "SiDForm(alpha=1.2, omega=InverseDistance(floor=1e-05), scale=100.0)",
        "sampler": AT.format(2.5),
        "renoise_time": "KarrasLevel(high=0.8, low=0.0, rho=7.0, sigma_max=80.0, sigma_min=0.002)",
        "critic_time": EDM_LAW,
        "critic_objective": EDM_LOSS.format("sum"),
        "guidance": UNGUIDED,
        "schedule": TURNS.format(True, 1, False),
    },
    "SiDA": {  # 2410.14919, mingyuanzhou/SiD, branch sida
        "form": "SiDForm(alpha=1.0, omega=InverseDistance(floor=1e-05), scale=50.0)",
        "extras.0.weight": 0.005,
        "extras.0.discriminator_weight": 200.0,
        "extras.0.student_start": 391,
        "extras.0.limit": 10.0,
        "schedule": TURNS.format(True, 1, False).replace("student_start=0", "student_start=391"),
    },
    "UniInstruct": {  # 2505.20755, a-little-hoof/Uni_Instruct
        "divergence": "ForwardKL()",
        "memory": 0.0,
        "loss_scale": 50.0,
        "extras.0.weight": 0.005,
        "extras.0.student_start": 391,
    },
    "SIM": {  # 2410.16794 has no training code: SiD's setup
        "form": "SIMForm(metric=PseudoHuber(c=0.03, per_element=True))",
        "sampler": AT.format(2.5),
        "renoise_time": "KarrasLevel(high=0.8, low=0.0, rho=7.0, sigma_max=80.0, sigma_min=0.002)",
        "critic_time": EDM_LAW,
        "critic_objective": EDM_LOSS.format("sum"),
        "schedule": TURNS.format(True, 1, False),
    },
    "RealUID": {  # 2509.22459, David-cripto/RealUID
        "alpha": 0.92,
        "beta": 0.94,
        "sampler": ONE_CALL.format("Renoise"),
        "renoise_time": ALL_LEVELS,
        "critic_time": ALL_LEVELS,
        "gradient_clip": 1.0,
        "schedule": TURNS.format(True, 5, False).replace("exclusive=False", "exclusive=True"),
    },
    "IBMD": {  # 2502.01362, ngushchin/IBMD
        "sampler": ONE_CALL.format("Renoise"),
        "renoise_time": ALL_LEVELS,
        "critic_time": ALL_LEVELS,
        "critic_objective": "DenoisingLoss(reduction=sum, target=x0, weight=UniformWeight())",
        "schedule": TURNS.format(True, 5, False),
    },
    "FewStepSiD": {  # 2505.12674, ml-sid-dit
        "form": "SiDForm(alpha=1.0, omega=FlowWeight(floor=1e-05, noise_power=0.0, signal_power=1.0), scale=100.0)",
        "schedule": TURNS.format(True, 1, False),
    },
    "SwiftBrush": {  # 2312.05239, VinAIResearch/SwiftBrush
        "renoise_time": DMD_LAW,
        "critic_time": ALL_LEVELS,
        "critic_objective": "DenoisingLoss(reduction=mean, target=noise, weight=VPSignalWeight())",
        "guidance": SCALES.format(0.1, 4.5, 1.0, 4.5),
        "schedule": TURNS.format(False, 1, True),
    },
    "TDM": {  # 2503.06674, Luo-Yihong/TDM
        "sampler": "TrajectorySampler(level=max, steps=4, times=grid)",
        "renoise_time": SEGMENT.format("student", "anchor"),
        "critic_time": SEGMENT.format("student", "anchor"),
        "guidance": SCALES.format(0.0, 1.0, 1.0, 4.5),
        "schedule": TURNS.format(True, 1, False),
        "form": "DistanceForm(metric=ElementwiseHuber(c=0.001))",
        "snr_cap": 5.0,
    },
    "PhasedDMD": {  # 2510.27684, ModelTC/LightX2V
        "sampler": "PhasedSampler(level=max, phases=2, steps=4, times=grid)",
        "renoise_time": SEGMENT.format(1.0, "anchor"),
        "critic_time": SEGMENT.format(1.0, "anchor"),
        "critic_objective": "DenoisingLoss(reduction=mean, target=velocity, weight=UniformWeight())",
        "guidance": UNGUIDED,
        "schedule": TURNS.format(False, 5, True),
        "weight_cap": 10.0,
        "phases": "sequential",
    },
    "CD": MAP  # 2303.01469, openai/consistency_models
    | {
        "times": "GridTimes(skip=1, steps=40)",
        "transition": "TeacherStep(solver=Heun(guidance=1.0, steps=18))",
        "metric": "SquaredError(reduction=mean, scale=1.0)",
        "weight": "UniformWeight()",
        "target": "EMATarget(rule=ConstantEMA(decay=0.95))",
        "perceptual": None,
    },
    "CT": MAP  # 2303.01469, openai/consistency_models
    | {
        "times": f"GrowingGrid(curriculum={SQUARE_ROOT}, rho=7.0, sigma_max=80.0, sigma_min=0.002)",
        "transition": "SameNoise()",
        "metric": "SquaredError(reduction=mean, scale=1.0)",
        "weight": "UniformWeight()",
        "target": f"EMATarget(rule=GridEMA(curriculum={SQUARE_ROOT}, first=0.95))",
        "perceptual": None,
    },
    "ICT": MAP  # 2310.14189
    | {
        "times": "LogNormalGrid(curriculum=DoublingLevels(first=10, last=1280, updates=400000), mean=-1.1, rho=7.0, "
        "sigma_max=80.0, sigma_min=0.002, std=2.0)",
        "transition": "SameNoise()",
        "metric": "PseudoHuber(c=0.00054, per_element=True)",
        "weight": "StepWeight()",
    },
    "TCM": MAP  # 2410.14895, NVlabs/TCM
    | {
        "level": 1.0,
        "law": f"BoundaryLevel(law={TRUNCATED}, level=1.0, share=0.25)",
        "boundary_weight": 0.1,
        "first_updates": 0,
        "times": "EasyTimes(b=1.0, double=None, k=8.0, largest_ratio=0.999, "
        f"law=BoundaryLevel(law={TRUNCATED}, level=1.0, share=0.25), q=256.0)",
        "target": "TargetByTime(above=StudentTarget(), below=SnapshotTarget(every=0), level=1.0)",
        "metric": "PseudoHuber(c=1e-08, per_element=False)",
        "weight": "StepWeight()",
    },
    "PCM": DISTILLED  # 2405.18407, G-U-N/Phased-Consistency-Model
    | {
        "times": "SegmentTimes(end=edge, segments=4, stage_updates=5000, steps=50)",
        "guidance": shown(TeacherGuidance(low=5.0, high=6.0)),
        "sampler": "JumpSampler(gradient_calls=1, level=max, steps=4, stop=random, times=grid)",
    },
    "TDD": DISTILLED  # 2409.01347, RedAIGC/Target-Driven-Distillation
    | {
        "times": "UnionTimes(fewest=4, most=8, relax=0.3, steps=250, window=0.26)",
        "guidance": shown(TeacherGuidance(low=4.5)),
        "condition_dropout": 0.2,
        "sampler": "JumpSampler(gradient_calls=1, level=max, steps=4, stop=random, times=grid)",
    },
    "HyperSD": DISTILLED  # 2404.13686: derived
    | {
        "times": "SegmentTimes(end=inside, segments=(8, 4, 2, 1), stage_updates=5000, steps=50)",
        "metric": "SquaredError(reduction=mean, scale=1.0)",
        "target": "EMATarget(rule=ConstantEMA(decay=0.95))",
        "guidance": shown(TeacherGuidance(low=7.5)),
    },
    "SCott": DISTILLED  # 2403.01505
    | {
        "times": "GridTimes(skip=3, steps=125)",
        "transition": "SDEStep(eta=0.3, steps=3)",
        "target": "EMATarget(rule=ConstantEMA(decay=0.95))",
        "guidance": shown(TeacherGuidance(low=6.0, high=16.0, embedded=True)),
    },
    "MCM": DISTILLED  # 2406.06890, yhZhai/mcm
    | {
        "times": "GridTimes(skip=1, steps=50)",
        "states": "OwnSamples(share=0.5)",
        "motion_form": "LearnedMotion(layers=3, width=64)",
        "head_decay": 0.95,
        "target": "EMATarget(rule=ConstantEMA(decay=0.95))",
        "guidance": shown(TeacherGuidance(low=6.0, high=16.0, embedded=True)),
    },
    "SCFlow": MAP  # 2412.16906, hao-pt/SCFlow
    | {
        "times": "NearbyTimes(every=10000, growth=0.05, law=FlowTime(high=1.0, low=0.001, shift=1.0), reach=0.1)",
        "velocity": "TeacherVelocity()",
        "coordinates": "RectifiedFlow(shift=1.0)",
        "metric": "ElementwiseHuber(c=0.01)",
        "target": "EMATarget(rule=ConstantEMA(decay=0.9))",
        "truncation": 0.45,
        "backward_weight": 0.1,
        "correction": 0.1,
        "start": 1000,
    },
    "TBCM": SCM  # 2511.20410
    | {
        "points": 16,
        "shift": 2.5,
        "states": "NoiseOnly()",
        "velocity": "PathVelocity()",
        "coordinates": "TrigFlow(sigma_data=1.0)",
        "warmup": 4000,
        "calm": 4000,
        "final": 1.0,
    },
    "ECT": MAP
    | {  # 2406.14548, locuslab/ect
        "times": EASY,
        "transition": "SameNoise()",
        "metric": "PseudoHuber(c=0.0, per_element=False)",
        "weight": "StepWeight()",
        "sampler": ONE_CALL.format("Renoise"),
    },
    "LCM": MAP
    | {  # 2310.04378, diffusers' scripts
        "times": "GridTimes(skip=1, steps=50)",
        "transition": "TeacherStep(solver=Euler(guidance=1.0, steps=18))",
        "metric": "ElementwiseHuber(c=0.001)",
        "weight": "UniformWeight()",
        "guidance": "TeacherGuidance(embedded=True, high=16.0, low=6.0, power=0.0, sampling=middle)",
    },
    "SCM": SCM,  # 2410.11081
    "MeanFlow": JUMP
    | {"times": MEAN_FLOW_LAW, "weight": "AdaptiveWeight(c=0.01, power=1.0)", "warmup": 0},  # 2505.13447
    "Shortcut": JUMP
    | {  # 2410.12557, kvfrans/shortcut-models
        "times": "DyadicTimes(bootstrap=0.125, levels=7)",
        "guidance_scale": 1.0,
        "bound": None,
    },
    "LSD": JUMP | {"times": UNIFORM_PAIRS, "learned_weight": True},  # 2505.18825
    "PSD": JUMP | {"times": UNIFORM_PAIRS, "learned_weight": True},
    "ESD": JUMP | {"times": UNIFORM_PAIRS, "learned_weight": True, "stopped": "spatial"},
    "IMF": JUMP
    | {  # 2512.02012, Lyy-iiis/imeanflow
        "times": MEAN_FLOW_LAW.replace("0.75", "0.5"),
        "velocity": "OwnGuidance(base=DataVelocity(), high=1.0, low=0.0)",
        "guidance": "TeacherGuidance(embedded=True, high=8.0, low=1.0, power=1.0, sampling=7.5)",
        "condition_dropout": 0.1,
        "weight": "AdaptiveWeight(c=0.01, power=1.0)",
        "own_weight": 1.0,
        "warmup": 0,
    },
    "CTM": MAP
    | {  # 2310.02279, sony/ctm
        "times": "SubGridTimes(longest=17, power=0.0, steps=18)",
        "transition": "TeacherWalk(solver=Heun(guidance=1.0, steps=18), steps=18)",
        "metric": "SquaredError(reduction=mean, scale=1.0)",
        "weight": "UniformWeight()",
        "target": "EMATarget(rule=ConstantEMA(decay=0.999))",
        "sampler": ONE_CALL.format("Jump"),
        "denoising_weight": 1.0,
        "denoising_time": EDM_LAW,
        "denoising": EDM_LOSS.format("mean"),
        "perceptual": None,
    },
    "AYF": JUMP
    | {  # 2506.14603
        "times": "GapTimes(length=LogitNormalTime(mean=-0.8, std=1.0), longest=1.0)",
        "velocity": "TeacherVelocity()",
        "guidance": "TeacherGuidance(embedded=True, high=3.0, low=1.0, power=0.0, sampling=middle)",
        "warmup": 10000,
        "largest": 0.99,
        "c": 0.1,
    },
    "AnyFlow": JUMP
    | {  # 2605.13724, NVlabs/AnyFlow
        "times": "SortedTimes(diagonal=0.5, law=FlowTime(high=1.0, low=0.0, shift=5.0), middle=0.5, to_data=0.5)",
        "derivative": "FiniteDifference(step=0.005)",
        "fused_guidance": 3.0,
        "condition_dropout": 0.1,
        "warmup": 0,
    },
    "IMM": JUMP
    | {  # 2503.07565
        "times": "EtaTimes(eta_max=160.0, high=0.994, k=15, low=0.006)",
        "b": 5.0,
        "power": 1.0,
    },
    "SCFM": JUMP
    | {  # 2510.17858, caitree/scfm
        "times": "LadderTimes(high_shift=4.5, low_shift=2.5, steps=(2, 4, 8, 16), teacher=0.4, teacher_steps=32)",
        "guidance": "TeacherGuidance(embedded=False, high=low, low=3.5, power=0.0, sampling=middle)",
        "target": "TwoSpeeds(fast=ConstantEMA(decay=0.99), slow=ConstantEMA(decay=0.999))",
    },
    "TraFlow": JUMP
    | {  # 2502.16972, derived
        "times": "SortedTimes(diagonal=0.0, law=FlowTime(high=1.0, low=0.01, shift=1.0), middle=None, to_data=0.0)",
        "target": "EMATarget(rule=ConstantEMA(decay=0.999))",
        "path": "TeacherSpan(solver=Heun(guidance=1.0, steps=18), steps=4)",
        "output_weight": 1.0,
        "velocity_weight": 1.0,
        "consistency_weight": 1.0,
    },
    "FreeFlow": JUMP
    | {  # 2511.19428
        "times": "FromNoise(law=FlowTime(high=1.0, low=0.0, shift=1.0), step=0.0)",
        "states": "NoiseOnly()",
        "velocity": "TeacherVelocity()",
        "weight": "AdaptiveWeight(c=0.001, power=1.0)",
        "extras.0.form": "VelocityGapForm(c=0.001, power=1.0)",
        "extras.0.renoise_time": "LogitNormalTime(mean=1.4, std=1.0)",
        "extras.0.critic_objective": FLOW_LOSS,
        "extras.0.critic_updates": 1,
    },
    "TVM": JUMP
    | {  # 2511.19797, lumalabs/tvm
        "times": "SortedTimes(diagonal=0.0, law=LogitNormalTime(mean=-0.4, std=1.0), middle=0.5, to_data=0.0)",
        "target": "EMATarget(rule=ConstantEMA(decay=0.99))",
        "flow_time": "LogitNormalTime(mean=-0.4, std=1.0)",
        "flow_weight": 1.0,
        "learned_weight": False,
        "condition_dropout": 0.1,
    },
    "MDTDist": MAP
    | {  # 2509.04406, Zanue/MDT-dist
        "times": "ToData(law=LogitNormalTime(mean=1.0, std=1.0))",
        "velocity": "TeacherVelocity()",
        "coordinates": "RectifiedFlow(shift=1.0)",
        "sampler": ONE_CALL.format("Renoise"),
        "derivative": "FiniteDifference(step=0.01)",
        "c": 0.1,
        "distillation_weight": 1.0,
    },
    "RestrictedMeanFlow": JUMP
    | {  # 2602.05449, derived
        "times": "GapTimes(length=LogitNormalTime(mean=-0.8, std=1.0), longest=0.25)",
        "velocity": "TeacherVelocity()",
        "weight": "AdaptiveWeight(c=0.01, power=1.0)",
        "warmup": 0,
    },
    "BOOT": MAP
    | {  # 2306.05544
        "times": "FromNoise(law=FlowTime(high=0.95, low=0.0, shift=1.0), step=0.04)",
        "states": "NoiseOnly()",
        "sampler": ONE_CALL.format("Jump"),
        "boundary_weight": 1.0,
    },
    "KD": PAIRS | {"metric": REGRESSION},  # 2101.02388
    "Reflow": PAIRS | {"metric": REGRESSION, "time": "FlowTime(high=1.0, low=0.001, shift=1.0)"},  # 2209.03003
    "Progressive": {"steps": [4, 2, 1], "weight": "TruncatedSNRWeight()"},  # 2202.00512
    "RFPP": PAIRS | {"c": 0.00054, "time": "UShapedTime(a=4.0, margin=1e-05)"},  # 2405.20320, sangyun884/rfpp
    "SFD": {"substeps": 4, "metric": "AbsoluteError(reduction=mean)"},  # 2409.19681
    "SFDDM": {"substeps": 8, "hidden": 1.0, "weight": "TruncatedSNRWeight()"},  # 2405.14961
    "SlimFlow": PAIRS  # 2407.12718, yuanzhi-zhu/SlimFlow
    | {"metric": REGRESSION, "annealing": "linear", "anneal_updates": 300_000, "guide_low": 0.2, "guide_high": 0.8},
    "PiFlow": {  # 2510.14974
        "window": 3 / 128,
        "policy": "GMFlow(components=8, offset=0.05, shift=1.0, std=0.05)",
        "sampler": "PolicySampler(last_segment=1.0, level=max, steps=1, substeps=128, temperature=1.0, times=grid)",
        "dropout": 0.0,
    },
    "ArcFlow": {  # 2602.09014, pnotp/ArcFlow
        "policy": "Momentum(components=16, offset=0.05, shift=1.0)",
        "sampler": "PolicySampler(last_segment=1.0, level=max, steps=2, substeps=128, temperature=1.0, times=grid)",
        "dropout": 0.1,
        "states": 4,
    },
    "GET": PAIRS | {"metric": "AbsoluteError(reduction=mean)"},  # 2401.08639
    "OptimalSteps": {"sampler": "GridSampler(steps=4)", "fine_steps": 100, "free_start": False},  # 2503.21774
    "DODE": {"sampler": "CorrectedSampler(form=data, steps=5)", "scale": 10},  # 2309.16421
    "Bespoke": {"sampler": "BespokeSampler(order=2, steps=5)", "dense": 20, "lipschitz": 1.0},  # 2310.19075
    "GDD": {  # 2405.20750
        "level": 0,
        "frozen": [],
        "extras.0.time": "UniformTime(high=0.5, low=0.0)",
        "extras.0.r1_gamma": 1e-4,
        "extras.0.r1_interval": 16,
        "extras.0.features": "teacher",
    },
    "TeacherTraining": {"objective": EDM_LOSS.format("mean"), "time": EDM_LAW, "condition_dropout": 0.1},  # 2206.00364
}
PUBLIC = [cls for cls in METHODS if cls.__name__ in fastgen.methods.__all__]


def test_every_method_has_its_numbers():
    assert {cls.__name__ for cls in PUBLIC} == set(PUBLISHED)


@pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: cls.__name__)
def test_methods(cls: type):
    special = {
        "ADD": {"backbones": [DigitsBackbone()]},
        "AMD": {"reward": SPECIAL["AMD"]["reward"]},
        "RewardForcing": {"reward": SPECIAL["AMD"]["reward"]},
        "SeverallyGuided": {"scales": JointScales({"label": 2.0})},
        "OptimalSteps": {"student": CopyOfTeacher()},
        "DODE": {"student": CopyOfTeacher()},
        "Bespoke": {"student": CopyOfTeacher()},
    }
    given: dict[str, Any] = special.get(cls.__name__, {})
    method = build(cls, **given)
    if issubclass(cls, FlowMapDistiller) and "coordinates" in PUBLISHED[cls.__name__]:  # others take the student's own
        method.coordinates = method.wanted_coordinates
    wanted = PUBLISHED[cls.__name__]
    assert {name: shown(attrgetter(name)(method)) for name in wanted} == wanted
    assert method.gradient_clip == wanted.get("gradient_clip")
    assert method.micro_batches == 1 and method.max_bad_steps == 10


def all_subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        if child.__module__.startswith("fastgen.") and not child.__name__.startswith("_"):
            yield child
        yield from all_subclasses(child)


OTHERS: dict[type, dict[str, Any]] = {
    Guidance: {"teacher": 1.0, "critic": 1.0, "critic_training": 1.0, "condition_dropout": 0.0},
    EDM: {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0},  # 2206.00364, table 1
    VP: {"beta_start": 0.00085, "beta_end": 0.012, "steps": 1000, "schedule": "scaled_linear"},  # Stable Diffusion
    RectifiedFlow: {"shift": 1.0},
    TrigFlow: {"sigma_data": 0.5},
    GAN: {"weight": 3e-3, "discriminator_weight": 1e-2, "features": "critic", "r1_weight": 0.0, "r1_gamma": 0.0},
    DistributionMatching: {"weight": 1.0, "critic_updates": 4},  # 2510.08431
    EL: {"weight": 1.0, "networks": 4, "width": 64, "depth": 3, "unbiased": True, "renewed": True},  # derived
    VisionGAN: {"weight": 1.0, "discriminator_weight": 1.0, "conditional": True, "augment": True},
    Reward: {"weight": 0.05, "margin": None},  # 2511.13649
    ImplicitAlignment: {"decay": 0.97, "follows": "student", "role": "critic"},  # 2506.00523 on FLUX.1
    # 2311.18828
    PairedRegression: {
        "weight": 0.25,
        "metric": SquaredError(scale=0.5),
        "pairs": "at hand",
        "perceptual": None,
    },  # 2311.18828
    LPIPS: {"backbone": "vgg", "size": "as is"},
    StatisticsShield: {"weight": 1.0, "mean": 0.075, "variance": 0.81},  # 2511.22677, CDM's code
    MixedVelocity: {"omega": 1.0, "kappa": 0.0, "low": 0.0, "high": 1.0},
    FiniteDifference: {"step": 5e-3},
    GMFlow: {"components": 8, "std": 0.05, "offset": 0.05},
    DX: {"points": 10},
    ema.ConstantEMA: {"decay": 0.999},
    ema.HalfLifeEMA: {"half_life": 500.0, "ramp_up": 0.05},  # EDM
    ema.PowerEMA: {"sigma_rel": 0.10, "gamma": None},  # EDM2
    Evaluate: {"count": 5000, "seed": 10_000, "teacher": True, "teacher_once": True},
    Health: {"explosion": 20.0, "collapse": 0.25, "skipped": 0.05},
}


def defaults(cls: type) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(cls).parameters.items() if p.default is not p.empty}


@pytest.mark.parametrize("cls", OTHERS, ids=lambda cls: cls.__name__)
def test_parts(cls: type):
    found = defaults(cls)
    assert {name: found[name] for name in OTHERS[cls]} == OTHERS[cls]


def _metrics() -> dict[str, dict[str, Any]]:
    found = {}
    for module in pkgutil.walk_packages(fastgen.metrics.__path__, "fastgen.metrics."):
        for name, cls in vars(import_module(module.name)).items():
            if inspect.isclass(cls) and cls.__module__ == module.name and not name.startswith("_"):
                numbers = {k: v for k, v in defaults(cls).items() if isinstance(v, int | float | str | tuple)}
                if numbers and "weights" not in cls.__module__.split("."):
                    found[name] = numbers
    return found


IMAGE_METRICS = (FrechetDistance(), FrechetRatio(), KernelDistance(), PrecisionRecall(), ClassAccuracy())
LAW_METRICS = (WassersteinDistance(), LawKernelDistance(), LawLikelihood(), ModeCoverage(), LawAccuracy())
CAPTION_METRICS = (CaptionRetrieval(), AttributeAccuracy(), UnsaidDiversity())
METRICS: dict[str, dict[str, Any]] = {
    "AttributeAccuracy": {"attributes": ("name", "background", "size", "position")},
    "CaptionRetrieval": {"candidates": 100},
    "EmojiJudge": {"folder": "asset:miniatures/emoji-judge", "classifiers": True},
    "EmojiMetrics": {"metrics": IMAGE_METRICS[:-1], "captions": CAPTION_METRICS, "batch_size": 256},
    "UnsaidDiversity": {"attributes": ("background", "size", "position")},
    "CentreCrop": {"size": 299},
    "ClipMetrics": {"metrics": (ClipDistance(),)},
    "CLIPScore": {"model": "ViT-g-14", "tag": "laion2b_s12b_b42k", "prefix": "", "styles": ()},
    "AestheticScore": {"model": "ViT-L-14-quickgelu", "tag": "openai"},
    "DigitsClassifier": {"weights": "asset:digits_classifier.safetensors"},
    "EmbeddingScore": {"styles": (), "name": ""},
    "DinoV2": {"model": "vit_large_patch14_dinov2.lvd142m", "size": 224},  # 2306.04675
    "DuplicateRate": {"quantile": 0.05},
    "FrechetRatio": {"splits": 4},
    "HPSv2": {"version": "v2.1", "styles": (), "antialias": True, "model": "ViT-H-14"},
    "ImageMetrics": {"metrics": IMAGE_METRICS, "prefix": "", "batch_size": 256},
    "Inception": {"resize": "tf1"},
    "InceptionScore": {"splits": 10},  # 1606.03498
    "LawKernelDistance": {"bandwidths": (0.1, 0.3, 1.0)},
    "Lpips": {"backbone": "alex"},
    "MixtureMetrics": {"metrics": LAW_METRICS},
    "ModeCoverage": {"radius": 3.0, "found_share": 0.2},
    "NvidiaInception": {"resize": "tf1"},
    "OpenClipFeatures": {"model": "ViT-L-14-336-quickgelu", "tag": "openai", "resize": "model", "normalise": False},
    "PairwiseLPIPS": {"backbone": "alex", "size": 256, "conditions": 50, "seeds": 4},
    "PickScore": {"styles": (), "model": "ViT-H-14"},
    "Pixels": {"size": 8, "channels": 3},
    "PrecisionRecall": {"neighbours": 5},
    "RandomConvolutions": {"channels": 3, "width": 64},
    "Reference": {"name": ""},
    "Resized": {"size": 256},
    "TeacherAlignment": {"backbone": "alex", "count": 64},
    "TextImageMetrics": {"batch_size": 64},
    "TimmFeatures": {"resize": "bicubic"},
    "WassersteinDistance": {"exact_count": 1000},
}


def test_metrics():
    found = _metrics()
    assert found == METRICS


LAWS = {
    "AnnealedLevel": {"updates": 1000},
    "SubGridTimes": {"steps": 18, "longest": 17, "power": 0.0},  # 2310.02279
    "LadderTimes": {
        "teacher": 0.4,
        "teacher_steps": 32,
        "steps": (2, 4, 8, 16),
        "low_shift": 2.5,
        "high_shift": 4.5,
    },  # 2510.17858, caitree/scfm
    "GapTimes": {"length": LogitNormalTime(-0.8, 1.0), "longest": 1.0},  # 2506.14603
    "EtaTimes": {"low": 0.006, "high": 0.994, "eta_max": 160.0, "k": 15},  # 2503.07565
    "FromNoise": {"law": FlowTime(0.0, 0.95, 1.0), "step": 0.0},
    "ClampedTime": {"law": FlowTime(0.0, 0.999, 5.0), "low": 0.02, "high": 0.98},  # 2412.07772, 2506.08009
    "LevelOfStep": {},
    "SharedLevel": {},
    "UniformTime": {"low": 0.02, "high": 0.98},  # 2405.14867
    "PowerTime": {"power": 3.0},  # 2507.18569
    "UniformStep": {"low": 20, "high": 979},
    "KarrasLevel": {"low": 0.0, "high": 1.0, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0},  # 2206.00364, eq. 5
    "LogNormalLevel": {"mean": -1.2, "std": 1.2},  # 2206.00364, table 1
    "LogitNormalTime": {"mean": 0.0, "std": 1.0},  # 2403.03206
    "StudentLevels": {"noisier": False},
    "WithinChain": {"low": "anchor", "high": "student", "floor": 0.02, "margin": 0.0, "shift": 1.0},
    "FlowTime": {"low": 1e-3, "high": 1.0, "shift": 1.0},
    "ToData": {"law": LogNormalLevel(-1.0, 1.4)},
    "EasyTimes": {
        "law": LogNormalLevel(-1.1, 2.0),
        "q": 2.0,
        "double": 25000,
        "k": 8.0,
        "b": 1.0,
        "largest_ratio": 0.999,
    },  # 2406.14548
    "GridTimes": {"steps": 50, "skip": 1},  # 2310.04378
    "SegmentTimes": {"steps": 50, "segments": 4, "stage_updates": 5000, "end": "edge"},  # 2405.18407
    "UnionTimes": {"steps": 250, "fewest": 4, "most": 8, "window": 0.26, "relax": 0.3},  # 2409.01347
    "NearbyTimes": {"law": FlowTime(1e-3, 1.0), "reach": 0.1, "growth": 0.05, "every": 10000},  # 2412.16906
    "TruncatedLevel": {"mean": 0.0, "scale": 0.2, "freedom": 0.01, "low": 1.0, "high": 80.0},  # 2410.14895
    "BoundaryLevel": {"law": TruncatedLevel(0.0, 0.2, 0.01, 1.0, 80.0), "level": 1.0, "share": 0.25},  # 2410.14895
    "GrowingGrid": {"curriculum": SquareRootLevels(2, 200, 800000), "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0},
    "LogNormalGrid": {
        "curriculum": DoublingLevels(10, 1280, 400000),
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "rho": 7.0,
        "mean": -1.1,
        "std": 2.0,
    },  # 2310.14189
    "SortedTimes": {"law": LogitNormalTime(-0.4, 1.0), "diagonal": 0.75, "to_data": 0.0, "middle": 0.5},  # 2505.13447
    "DyadicTimes": {"levels": 7, "bootstrap": 0.125},  # 2410.12557
    "DDIM": {"steps": 18, "guidance": 1.0, "eta": 0.0},  # 2010.02502
    "DPMSolverPP": {"steps": 18, "guidance": 1.0},
    "Euler": {"steps": 18, "guidance": 1.0},
    "Heun": {"steps": 18, "guidance": 1.0},  # 2206.00364
    "PseudoHuber": {"c": 0.0, "per_element": False},
    "ElementwiseHuber": {"c": 1e-3},  # 2310.04378
    "FasterDiffusion": {  # 2312.09608
        "steps": 50,
        "guidance": 1.0,
        "key_steps": (0, 1, 2, 3, 5, 10, 15, 25, 35),
        "noise_share": 0.003,
    },
    "BlockCache": {"steps": 50, "guidance": 1.0, "threshold": 0.05},
    "UShapedTime": {"a": 4.0, "margin": 1e-5},  # 2405.20320
    "UniPC": {"steps": 18, "guidance": 1.0},
    "SquaredError": {"scale": 1.0, "reduction": "mean"},
    "AbsoluteError": {"reduction": "mean"},
}


def test_laws():
    kinds = (TimeLaw, JumpLaw, Solver, Metric)
    classes = [cls for kind in kinds for cls in all_subclasses(kind) if not inspect.isabstract(cls)]
    found = {cls.__name__: partial(defaults, cls) for cls in classes}
    assert found.keys() == LAWS.keys()
    for name, wanted in LAWS.items():
        assert {k: v for k, v in found[name]().items() if v is not None} == wanted, name
    assert {cls.__name__ for cls in all_subclasses(Derivative)} == {"ForwardMode", "FiniteDifference", "SemiContinuous"}


@pytest.mark.parametrize("chance", [-0.1, 1.5])
def test_a_chance_is_a_probability(chance: float):
    with pytest.raises((ValueError, UserError)):
        Guidance(condition_dropout=chance)
