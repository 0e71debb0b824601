"""A broken teacher, critic or discriminator makes an update that is skipped, never a number."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from methods.test_two_processes import ASKING, _double, batch, made
from toys import ToyData, build, network, trainer

from fastgen.distiller.micro_batch import MicroBatch
from fastgen.extras import GAN
from fastgen.methods import DMD2, SFD, Distiller, FDistill
from fastgen.precision import slope_of
from fastgen.processes import EDM, Prediction
from fastgen.sampling.scores import Comparison, ScoreInputs

pytestmark = pytest.mark.filterwarnings("ignore")


def poison(prediction: Prediction) -> Prediction:
    value = prediction.value.clone()
    value[0, 0] = float("nan")
    return Prediction(prediction.process, prediction.x_t, prediction.t, value, prediction.kind)


OF_FEATURES = {"ADM", "LADD", "WithoutDistillation", "IMM"}
"""Methods whose student learns from the teacher's features or its steps through a discriminator, not from answers; IMM
asks no teacher."""


@pytest.mark.parametrize(
    "cls", [cls for cls in ASKING if cls.__name__ not in OF_FEATURES], ids=lambda cls: cls.__name__
)
def test_one_number_of_the_teacher_spoils_the_update(cls: type[Distiller]):
    method = made(cls, partial(_double, 0, EDM()), EDM())
    assert method.teacher is not None
    for poisoned in (False, True):
        if poisoned:
            method.teacher.register_forward_hook(lambda _, inputs, prediction: poison(prediction))
        with method.only("student"):
            total = sum(method.losses("student", batch()).values())
            gradient = torch.autograd.grad(
                total, method.trained_parameters["student"], slope_of(total), allow_unused=True
            )
        assert poisoned != all(bool(g.isfinite().all()) for g in gradient if g is not None)


def test_a_loss_that_hides_it_is_no_update():
    """The gradient of an absolute error that is no number is 0."""
    method = made(SFD, partial(network, 0), EDM()).float()
    method.teacher.register_forward_hook(lambda _, inputs, prediction: poison(prediction))
    before = [p.detach().clone() for p in method.student.parameters()]
    trainer(1).fit(method, ToyData(batch_size=4))
    assert method.bad_steps_total >= 1 and all(map(torch.equal, before, method.student.parameters()))


def test_density_ratios_are_forgotten_with_their_update():
    """A bin that remembers half of its old mean would remember a number that is none for ever."""
    gan = GAN(features="teacher", at_scores=True)
    method = build(FDistill, memory=0.5, extras=[gan], teacher=partial(network, 0))
    seen: list[bool] = []

    def judge(*args: object, original: object = gan.judge) -> torch.Tensor:
        logits = original(*args)  # type: ignore[operator]
        seen.append(method.iteration == 5)
        return logits * (float("nan") if seen[-1] else 1.0)

    gan.judge = judge  # type: ignore[method-assign]
    trainer(11).fit(method, ToyData(batch_size=4))
    assert any(seen) and method.bad_steps_total >= 1
    assert bool(method.ratio_means.isfinite().all()) and bool(method.weight_mean.isfinite())


def test_a_perfect_critic_leaves_the_student_alone():
    """X = teacher's = critic's prediction: no direction and no length, and no update that is skipped."""

    class Perfect(DMD2):
        def scores(self, part: MicroBatch, inputs: ScoreInputs) -> Comparison:
            found = super().scores(part, inputs)
            for one in (found.real, found.fake):
                one.value, one.kind = inputs.rollout.x0.detach(), "x0"
            return found

    method = build(Perfect)
    run = trainer(2)
    run.fit(method, ToyData(batch_size=4))
    assert run.callback_metrics["student/match"] == 0.0 and method.bad_steps_total == 0
