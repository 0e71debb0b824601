from functools import partial

import pytest
import torch
from torch import Tensor
from toys import CLASSES, build

from fastgen.conditions import Guidance
from fastgen.denoisers.networks.dit import DiT
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods import DMD2, ScoreDistiller, SiD
from fastgen.objectives.score_identity import sid_loss
from fastgen.processes import PREDICTION_KINDS, PredictionKind, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.scores import critic_condition
from fastgen.times import UniformTime

LABEL = torch.arange(6) % CLASSES


def made(cls: type[ScoreDistiller], **kwargs) -> ScoreDistiller:
    method = build(cls, **kwargs)
    method.configure_model()
    return method


def part(step: int = 0) -> MicroBatch:
    return MicroBatch(None, {"label": LABEL}, Draws(1, range(6), "train", step=step))


class Calls:
    """Labels and grad modes with which a network is called."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.labels: list[Tensor] = []
        self.grad: list[bool] = []
        network.register_forward_pre_hook(self.note)

    def note(self, _: torch.nn.Module, args: tuple) -> None:
        self.labels.append(args[2]["label"])
        self.grad.append(torch.is_grad_enabled())


def test_dmd2_shares_the_samples_of_before_the_update():
    method, piece = made(DMD2), part()
    method.student_loss(piece)
    student = piece.rollouts["student"].x0
    with torch.no_grad():
        method.student.head.bias += 1.0
    calls = Calls(method.student)
    method.critic_loss(piece)
    assert not calls.labels and torch.equal(piece.rollouts["critic"].x0, student.detach())
    assert student.requires_grad and not piece.rollouts["critic"].x0.requires_grad


def test_sid_draws_fresh_samples_for_each():
    method, piece = made(SiD), part()
    method.critic_loss(piece)
    method.student_loss(piece)
    critic, student = piece.rollouts["critic"].x0, piece.rollouts["student"].x0
    assert not torch.isclose(critic, student).any() and not critic.requires_grad and student.requires_grad


@pytest.mark.parametrize("cls", [DMD2, SiD])
def test_the_critic_alone_samples_without_a_graph(cls: type[ScoreDistiller]):
    method, piece = made(cls), part()
    calls = Calls(method.student)
    method.critic_loss(piece)
    assert calls.grad == [False] and not piece.rollouts["critic"].x0.requires_grad


@pytest.mark.parametrize(("cls", "second_order"), [(DMD2, False), (SiD, True)])
def test_only_second_order_methods_differentiate_the_networks(cls: type[ScoreDistiller], second_order: bool):
    method = made(cls)
    teacher, critic = Calls(method.teacher), Calls(method.critic)
    method.student_loss(part())
    assert teacher.grad == critic.grad == [second_order]


@pytest.mark.parametrize("kind", PREDICTION_KINDS)
def test_second_order_gradients_whatever_the_networks_predict(kind: PredictionKind):
    """The gradient is that of SiD's loss through both networks, also where x0 is converted from their answer."""

    def network(seed: int) -> DiT:
        torch.manual_seed(seed)
        result = DiT(RectifiedFlow(), kind, width=16, depth=1, heads=2, num_classes=CLASSES)
        for parameter in result.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        return result.double()

    roles = {name: partial(network, seed) for seed, name in enumerate(("student", "teacher", "critic"))}
    method, piece = made(SiD, renoise_time=UniformTime(0.4, 0.6), **roles), part()
    parameters = list(method.student.parameters())
    found = torch.autograd.grad(method.student_loss(piece)["match"], parameters, retain_graph=True)
    inputs = piece.score_inputs["critic"]
    real, fake = (net(inputs.x_t, inputs.t, piece.condition).x0 for net in (method.teacher, method.critic))
    loss = 100.0 * sid_loss(inputs.rollout.x0, real, fake, 1.2)
    for gradient, expected in zip(found, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


def test_both_scores_are_asked_at_one_point():
    method, seen = made(SiD), []
    for network in (method.teacher, method.critic):
        network.register_forward_pre_hook(lambda _, args: seen.append(args[:2]))
    method.student_loss(part())
    (x, t), (y, s) = seen
    assert torch.equal(x, y) and torch.equal(t, s)


def test_other_iterations_have_other_noise():
    method = made(DMD2)
    pieces = [MicroBatch(None, {"label": LABEL}, Draws(1, range(6 * n, 6 * n + 6), "train", step=n)) for n in range(2)]
    for piece in pieces:
        method.student_loss(piece)
    assert not torch.isclose(pieces[0].rollouts["student"].x0, pieces[1].rollouts["student"].x0).any()


def test_a_dropped_condition_is_dropped_for_critic_and_sample():
    method, piece = made(SiD, guidance=Guidance(condition_dropout=1.0)), part()
    student, critic = Calls(method.student), Calls(method.critic)
    method.critic_loss(piece)
    null = torch.full((6,), CLASSES)
    assert torch.equal(student.labels[0], null) and torch.equal(critic.labels[0], null)
    method.student_loss(piece)
    assert torch.equal(student.labels[1], LABEL) and torch.equal(critic.labels[1], LABEL)


def test_conditions_are_dropped_at_the_given_rate():
    method = made(SiD, guidance=Guidance(condition_dropout=0.25))
    piece = MicroBatch(None, {"label": torch.zeros(2000, dtype=torch.int64)}, Draws(1, range(2000), "train"))
    dropped = critic_condition(method.critic, piece.condition, method.guidance, piece.draws)
    rate = (dropped["label"] == CLASSES).double().mean()
    assert abs(rate - 0.25) < 4 * (0.25 * 0.75 / 2000) ** 0.5


def test_guidance_scales_reach_their_terms():
    """kappa1 in the critic's training, kappa2 = kappa3 on the critic and kappa4 on the teacher (arXiv 2406.01561)."""
    method = made(SiD, guidance=Guidance(teacher=3.0, critic=2.0, critic_training=1.5))
    piece, teacher, critic = part(), Calls(method.teacher), Calls(method.critic)
    method.student_loss(piece)
    both = torch.cat([LABEL, torch.full((6,), CLASSES)])
    assert torch.equal(teacher.labels[0], both) and torch.equal(critic.labels[0], both)
    method.critic_loss(piece)["denoising"].backward()
    assert torch.equal(critic.labels[1], both)
    used = method.critic.label_embedding.weight.grad.abs().sum(1) > 0
    assert used.tolist() == [True] * (CLASSES + 1), "both branches learn"


def test_health_is_silent_without_a_trainer(recwarn: pytest.WarningsRecorder):
    made(DMD2).student_loss(part())
    assert not recwarn.list
