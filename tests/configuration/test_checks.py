"""Every constructor that a YAML file can call refuses numbers that make no sense, and says which."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import fastgen
from fastgen import checks
from fastgen.conditions import Guidance
from fastgen.denoisers import MLP, RingMixture
from fastgen.errors import UserError
from fastgen.extras import DigitLogProbability
from fastgen.extras.backbones import TimmBackbone
from fastgen.metrics import DigitsClassifier
from fastgen.objectives.divergences import JensenShannon
from fastgen.processes import EDM, Process
from fastgen.times import EasyTimes, UniformTime

NOT_FROM_CONFIGS = (
    "planning",  # what a plan counts
    "denoisers.images",  # families: they need a folder
    "denoisers.wrappers.policies.MomentumPolicy",  # what a network says
    "denoisers.wrappers.borrowed",
    "miniatures.autoencoder.Reconstruction",
    "methods.two_times.balance",
    "storage.stage_plan",
    "shapes",
    "denoisers.wrappers.added_inputs",  # parts of networks, built by them
    "denoisers.wrappers.on_grid",
    "denoisers.diffusers",  # test_families.py: they need a folder
    "denoisers.causal.attending",
    "denoisers.causal.transformer.ClipBlock",
    "denoisers.causal.transformer.TokenTransformer",
    "denoisers.causal.wan",
    "denoisers.networks.dropout",
    "denoisers.networks.embedding",
    "denoisers.wrappers.features",
    "denoisers.diffusers.flow_transformers",
    "denoisers.diffusers.codec",
    "denoisers.diffusers.pipeline_files",
    "denoisers.diffusers.pipelines",
    "denoisers.diffusers.schedulers",
    "callbacks.evaluation.unfinished",
    "metrics.text.text_image",
    "metrics.extractors.open_clip_features",
    "metrics.extractors.open_clip_tower",
    "cli",
    "distiller.run_facts",  # what a trainer and a config say
    "randomness",
    "times.chains.Chain",
    "report",
    "sampling.rollout.Rollout",
    "sampling.clips.streams",
    "strategies",
    "denoisers.wrappers.lora.LowRank",
    "denoisers.networks.dit.Attention",
    "denoisers.networks.dit.Block",
    "denoisers.networks.mlp.Block",
    "denoisers.networks.unet.ResidualBlock",
    "denoisers.networks.unet.SelfAttention",
    "denoisers.exact.gaussians.ExactDenoiser",
    "denoisers.networks.labels.LabelledDenoiser",
    "denoisers.base.Denoiser",
    "denoisers.wrappers.experts",
    "denoisers.exact.mixtures.EmpiricalDenoiser.labels",  # called classes there
    "denoisers.networks.log_weight",
    "denoisers.wrappers.second_time.CopiedTime",
    "methods.flow_maps.state",
    "metrics.samples.collecting.CollectingMetric",
    "metrics.samples.picture_metric.Pictures",
    "metrics.suites.text_suite",  # test_text_suite.py: its metrics need weights
    "metrics.samples.duplicates.DuplicateRate.num_features",
    "export.sampling",
    "metrics.samples.reference",
    "metrics.laws.mixture.",  # built by the suite, whose arguments are checked
    "metrics.samples.frechet",
    "metrics.samples.inception_score",
    "metrics.samples.precision_recall",
    "metrics.samples.vendi",
    "metrics.samples.kernel",
    "metrics.samples.cmmd",
    "data.order.InfiniteSampler",
    "data.order.ShardSampler",
    "data.tables",
    "optimizers",  # tried out: test_optimizers.py
    "denoisers.wrappers.policies.GridPolicy",
    "denoisers.wrappers.policies.MixturePolicy",
    "denoisers.wrappers.policies.Policy",
    "data.images.ImageReader",
    "data.emoji.drawings",  # made by the data module
    "metrics.judge.attributes",  # read from a judge's folder
    "denoisers.wrappers.lorad.Rotation",
    "extras.heads",  # built on features
    "sampling.langevin.Product",
    "sampling.scores",  # made by the method
)
"""Beginnings of what no config builds, or what other tests look at."""

GIVEN: dict[str, Any] = {
    "process": EDM(),
    "distribution": lambda: RingMixture(EDM()),
    "teacher": lambda: RingMixture(EDM()),
    "student": lambda: MLP(EDM()),
    "time": UniformTime(),
    "first": UniformTime(),
    "last": UniformTime(),
    "times": EasyTimes(),
    "root": "photos",
    "path": "prompts.txt",
    "tokenizer": "tokens",
    "divergence": JensenShannon(),
    "network": lambda: MLP(EDM()),
    "law": UniformTime(),
    "encoder": lambda: RingMixture(EDM()),
    "resolution": 8,
    "means": [[0.0], [1.0]],
    "std": 0.1,
    "bases": [[[1.0]], [[1.0]]],
    "subspace_variances": [[1.0], [1.0]],
    "mean": [0.0],
    "covariance": [[1.0]],
    "data": torch.zeros(2, 1),
    "extractor": DigitsClassifier(),
    "num_features": 4,
    "suite": None,
    "optimizer": torch.optim.SGD([torch.zeros(1)], lr=1.0),
    "model": "resnet18.a1_in1k",
    "backbones": [TimmBackbone("resnet18.a1_in1k", ["layer1"])],
    "layers": ["layer1"],
    "reward": lambda: DigitLogProbability(),
    "judge": DigitsClassifier(),
}
"""What required arguments get."""

NEGATIVE_IS_FINE = {
    "FewStepSiD.alpha",
    "IMM.b",
    "LogNormalGrid.mean",
    "TruncatedLevel.mean",
    "FlowWeight.noise_power",
    "FlowWeight.signal_power",
    "Guidance.critic",  # anti-CFG (arXiv 2505.12674)
    "LinearGaussianClips.angle",
    "LinearGaussianClips.gain",
    "LogNormalLevel.mean",
    "MotionEnergy.mean",
    "TransportForm.channels",  # -1 is a way of reading
    "LogitNormalTime.mean",
    "Reward.margin",
    "StatisticsShield.mean",
    "SiD.alpha",
    "SiDA.alpha",
    "SiDForm.alpha",
    "GaussianDenoiser.mean",
    "GaussianDenoiser.covariance",
    "MixtureDenoiser.means",
    "LowRankMixtureDenoiser.means",
    "LowRankMixtureDenoiser.bases",
}


def modules() -> Iterator[Any]:
    for found in pkgutil.walk_packages(fastgen.__path__, "fastgen."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def arguments() -> Iterator[tuple[type, str, str]]:
    """Every argument of a public class that takes numbers: (class, name, annotation)."""
    for module in modules():
        for name, kind in vars(module).items():
            place = f"{module.__name__.removeprefix('fastgen.')}.{name}"
            if not inspect.isclass(kind) or kind.__module__ != module.__name__ or place.startswith(NOT_FROM_CONFIGS):
                continue
            if name.startswith("_") or not {"__init__", "__post_init__"} & set(vars(kind)):
                continue
            for argument, parameter in inspect.signature(kind.__init__).parameters.items():
                words = re.findall(r"\w+", str(parameter.annotation))
                if {"int", "float"} & set(words) and f"{place}.{argument}" not in NOT_FROM_CONFIGS:
                    yield kind, argument, str(parameter.annotation)


def make(kind: type, **more: Any) -> Any:
    """An object of the class, or if that is abstract of a subclass, with sensible required arguments."""
    if inspect.isabstract(kind):
        kind = type(kind.__name__, (kind,), dict.fromkeys(kind.__abstractmethods__))
    takes = inspect.signature(kind.__init__).parameters
    wanted = {name for name, p in takes.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD} - {"self"}
    if "kwargs" in takes and "methods" in kind.__module__:
        wanted |= {"student", "teacher"} & (set(takes) | {"student", "teacher"})
    if kind.__name__ == "OptimalSteps":
        wanted.discard("student")
    return kind(**{name: GIVEN[name] for name in wanted if name in GIVEN} | more)


ARGUMENTS = list(arguments())


@pytest.mark.parametrize(
    ("kind", "argument", "annotation"), ARGUMENTS, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_nonsense_is_refused(kind: type, argument: str, annotation: str):
    values: list[Any] = [math.nan, math.inf]
    if f"{kind.__name__}.{argument}" not in NEGATIVE_IS_FINE:
        values += [-1, -1.0] if "float" in annotation else [-1]
    if "Sequence[Sequence" in annotation:
        values = [[[value]] for value in values]
    elif "Sequence" in annotation or "list[" in annotation or "tuple[" in annotation:
        values = [[value] for value in values]
    for value in values:
        with pytest.raises(UserError, match=argument) as refusal:
            make(kind, **{argument: value})
        assert re.fullmatch(r"\w+: .+, got .+\.", str(refusal.value)), refusal.value


def test_the_list_of_arguments_is_whole():
    """A new class or a new number is looked at without being named here."""
    classes = {kind.__name__ for kind, _, _ in ARGUMENTS}
    assert len(ARGUMENTS) > 150 and len(classes) > 60
    assert {"SiD", "GAN", "EDM", "VP", "Digits", "Evaluate", "UNet", "LoRA", "PowerEMA", "UpdateSchedule"} <= classes


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: UniformTime(0.9, 0.1), "UniformTime: low must be at most high, got 0.9 and 0.1."),
        (lambda: EDM(1.0, 1.0), "EDM: sigma_min must be below sigma_max, got 1.0 for both."),
        (lambda: Guidance(teacher=-1.0), "Guidance: teacher must be a finite number from 0, got -1.0."),
        (lambda: Guidance(condition_dropout=1.5), "Guidance: condition_dropout must be in [0, 1], got 1.5."),
        (lambda: RingMixture(EDM(), num_classes=9), "RingMixture: num_classes must be an integer from 0 to 8, got 9."),
    ],
)
def test_the_sentence(build: Callable[[], Process], says: str):
    with pytest.raises(UserError) as refusal:
        build()
    assert str(refusal.value) == says


def test_what_a_check_takes():
    checks.positive("X", a=None, b=1, c=[0.5, 2], d={"student": 1e-3}, e=torch.ones(3), f=np.float32(2))
    checks.whole("X", a=torch.ones(0), b=[1, 2], c=torch.tensor([1, 2]), d=range(1, 4))
    checks.ascending("X", low="anchor", middle=0.5, high=None)
    for value in (True, "1", 10**400, 1e39, [1.0, -1.0], {"student": 0.0}, torch.tensor([1.0, math.nan]), object()):
        with pytest.raises(UserError, match="X: a"):
            checks.positive("X", a=value)
    for value in (True, 1.0, 2**31, "1", -1):
        with pytest.raises(UserError, match="X: a must be an integer from 0, got"):
            checks.whole("X", 0, a=value)
    with pytest.raises(UserError, match=r"X: a\.critic must be"):
        checks.positive("X", a={"student": 1.0, "critic": -1.0})
    with pytest.raises(UserError, match="0 to 4294967295"):
        checks.seed("X", a=2**32)
