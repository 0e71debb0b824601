"""The problem "text": captions become pictures, by a trained teacher in the format of Stable Diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.oracle.problems import Config, Judge, Problem, part
from fastgen.conditions import Condition
from fastgen.data import Emoji
from fastgen.denoisers import StableDiffusion
from fastgen.denoisers.base import Codec
from fastgen.metrics import EmojiJudge, EmojiMetrics, FrechetDistance, PrecisionRecall
from fastgen.metrics.samples.frechet import frechet_distance, moments
from fastgen.pictures.pixels import to_uint8
from fastgen.randomness import Draws
from fastgen.sampling.solvers import Euler
from fastgen.storage.files import load_tensors, save_tensors

TEACHER = "emoji-sd"
STEPS = 25
"""Euler steps of the teacher whose samples are compared with."""
SEED = 1_000_000
"""Of these samples; students have others."""
KEPT = ("precision", "recall", "coverage", "retrieval", "caption_accuracy", "name_accuracy", "unsaid_diversity")
CHUNK = 100
"""Samples that are made at once."""


class TextJudge(Judge):
    """Fréchet distance in the features of the miniatures' judge, to the drawings and to the teacher's samples.

    Beside it what the judge says of captions: how often one finds its picture among 100, whether all that it says is
    seen, and how much two pictures of a caption differ in what it leaves open. Captions are of held-out combinations.

    Args:
        teacher: Configuration of the network.
        data: Arguments of the data module.
        guidance: Of the teacher's samples.
        count: Number of samples; two in a row have one caption.
    """

    distance = "Fréchet, judge"

    def __init__(self, teacher: Config, data: Config, guidance: float, count: int) -> None:
        self.teacher, self.options, self.guidance, self.count = teacher, data, guidance, count
        self.folder: Path | None = None

    @property
    def settings(self) -> Config:
        return super().settings | {"guidance": self.guidance, "steps": STEPS, "data": self.options}

    @cached_property
    def data(self) -> Emoji:
        """The drawings."""
        return Emoji(**self.options)

    @cached_property
    def network(self) -> StableDiffusion:
        """The teacher."""
        network = StableDiffusion(**self.teacher["init_args"])
        network.load_weights()
        return network.eval()

    @cached_property
    def codec(self) -> Codec:
        """Its VAE and text encoder."""
        return self.network.make_codec()

    @cached_property
    def suite(self) -> EmojiMetrics:
        """The metrics, with the drawings as reference."""
        suite = EmojiMetrics(EmojiJudge(), metrics=[FrechetDistance(), PrecisionRecall()])
        suite.load()
        suite.set_reference(self.data.reference())
        return suite

    def condition(self, indices: range) -> dict[str, Any]:
        return self.data.evaluation_conditions(indices)

    def pair_condition(self, count: int) -> Condition:
        """Captions of the training's first ``count`` samples, encoded."""
        captions = Emoji(**self.options, with_x0=False).sources[0].batch(range(count))["condition"]
        with torch.no_grad():
            return self.codec.encode_condition(captions)

    @torch.no_grad()
    def solved(self, guidance: float, seed: int) -> Tensor:
        """The teacher's pictures."""
        pictures, solver = [], Euler(STEPS, guidance)
        for first in range(0, self.count, CHUNK):
            rows = range(first, min(first + CHUNK, self.count))
            noise = Draws(0, [seed + i for i in rows], "sample").normal("noise", self.network.sample_shape)
            condition = self.codec.encode_condition(self.condition(rows))
            pictures.append(self.codec.decode(solver.solve(self.network, noise, condition)))
        return torch.cat(pictures)

    @cached_property
    def teachers_features(self) -> Tensor:
        """Features of the teacher's samples, made once for all runs of a folder."""
        from benchmarks.oracle.run import fingerprint

        known = [self.teacher, self.settings, self.suite.judge.fingerprint()]
        path = (self.folder or Path()) / f"text-teacher-{fingerprint(known)}.safetensors"
        if self.folder is None or not path.exists():
            features = self.suite.judge(to_uint8(self.solved(self.guidance, SEED)))
            if self.folder is None:
                return features
            save_tensors(path, {"features": features})
        return load_tensors(path)[0]["features"]

    def measured(self, pictures: Tensor) -> dict[str, float]:
        """Of pictures of the first captions."""
        rows = range(len(pictures))
        self.suite.reset()
        self.suite.observe(pictures, self.condition(rows) | self.data.evaluation_groups(rows), rows)
        numbers = self.suite.compute()
        return {"distance": float(numbers["frechet"])} | {name: float(numbers[name]) for name in KEPT}

    def real(self) -> dict[str, float]:
        """Drawings of which the captions are true: the most that a sampler can get."""
        return self.measured(self.data.evaluation_samples(range(self.count)))

    def floor(self) -> float:
        return self.real()["distance"]

    def values(self, samples: Tensor) -> dict[str, float]:
        features = self.suite.judge(to_uint8(samples))
        to_teacher = frechet_distance(*moments(features), *moments(self.teachers_features))
        return self.measured(samples) | {"teacher_distance": float(to_teacher)}


@dataclass(frozen=True)
class TextProblem(Problem):
    """A teacher that takes captions; every student begins as its copy."""

    guidances: tuple[float, ...] = (1.0, 2.0, 5.0)
    """Further guidance scales of the teacher that are measured."""

    def student(self, weights: str | None, process: str = "EDM") -> Config:
        return self.teacher

    def check(self) -> None:
        StableDiffusion(**self.teacher["init_args"])
        judge = self.judge
        assert isinstance(judge, TextJudge)
        assert judge.data.drawings and EmojiJudge().path

    def prepare(self, folder: Path) -> None:
        judge = self.judge
        assert isinstance(judge, TextJudge)
        judge.folder = folder

    def further_rows(self) -> dict[str, list[dict[str, Any]]]:
        judge = self.judge
        assert isinstance(judge, TextJudge)
        scales = [
            {"solver": f"Euler, guidance {scale:g}", "steps": STEPS, "calls": STEPS, "guidance": scale}
            | judge.values(judge.solved(scale, SEED + judge.count))
            for scale in (*self.guidances, self.guidance)
        ]
        return {"real": [{"solver": "drawings", "steps": 0, "calls": 0, **judge.real()}], "guidance": scales}


def text_problem(
    pretrained: str = TEACHER, options: Mapping[str, Any] = {}, data: Mapping[str, Any] = {}, count: int = 400
) -> TextProblem:
    """The problem.

    Args:
        pretrained: The teacher's folder or name.
        options: Further arguments of the network.
        data: Arguments of the data module.
        count: Number of samples that are judged.
    """
    teacher, guidance = part("StableDiffusion", pretrained=pretrained, **options), 3.0
    return TextProblem(
        name="text",
        title="captions to pictures, trained teacher with guidance 3",
        teacher=teacher,
        network=teacher,
        data=part("Emoji", **data),
        judge=TextJudge(teacher, dict(data), guidance, count),
        sigma_data=1.0,
        levels=(625.0, 459.0, 292.0, 125.0),  # steps: of noise 2.3, 1.4, 0.8 and 0.4 times the signal's scale
        high=999.0,
        budget=30_000,
        batch_size=24,
        lr=2e-4,
        guidance=guidance,
        start_updates=0,
        points=2,
    )
