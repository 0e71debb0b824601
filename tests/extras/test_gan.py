from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import CLASSES, FreeData, StirredLoRA, StopAfter, ToyData, build, network, trainer

from fastgen.conditions import Guidance
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.extras import GAN
from fastgen.methods import DMD2, DecoupledDMD, ScoreDistiller, SiD, SwiftBrush, TeacherTraining, WithoutDistillation
from fastgen.randomness import Draws
from fastgen.times import KarrasLevel

LABEL = torch.arange(6) % CLASSES
pytestmark = pytest.mark.filterwarnings("ignore")


def made(cls: type[ScoreDistiller] = DMD2, gan: GAN | None = None, **kwargs: Any) -> ScoreDistiller:
    torch.manual_seed(0)  # the head's initialisation
    method = build(cls, **({"extras": [gan or GAN(time=KarrasLevel(0.2, 0.6))]} | kwargs))
    method.configure_model()
    return method


def part(with_data: bool = True) -> MicroBatch:
    x0 = torch.randn(6, 2, generator=torch.Generator().manual_seed(1)) if with_data else None
    return MicroBatch(x0, {"label": LABEL}, Draws(1, range(6), "train"))


def logits_of(method: ScoreDistiller) -> list[Tensor]:
    found: list[Tensor] = []
    method.extras[0].heads[0].register_forward_hook(lambda _, __, output: found.append(output))
    return found


def gradients(method: ScoreDistiller, role: str) -> list[Tensor | None]:
    return [p.grad for p in method.trained_parameters[role]]


def test_values_by_hand():
    method, piece = made(gan=GAN(weight=0.3, discriminator_weight=0.07, time=KarrasLevel(0.2, 0.6))), part()
    logits = logits_of(method)
    student, critic = (method.losses(role, piece)["gan"] for role in ("student", "critic"))
    generated, both = logits
    real, fake = both.chunk(2)
    torch.testing.assert_close(student, 0.3 * F.softplus(-generated).mean())
    torch.testing.assert_close(critic, 0.07 * (F.softplus(-real).mean() + F.softplus(fake).mean()))
    assert generated.shape == (6,) and not torch.allclose(generated, fake), "every term draws its own noise"


def test_the_student_learns_through_the_features():
    """Teacher and critic agree here, so matching has no gradient and all of it is the GAN's."""
    method = made(critic=lambda: network(2), teacher=lambda: network(2))
    logits = logits_of(method)
    with method.only("student"):
        losses = method.losses("student", part())
        sum(losses.values()).backward()
        (by_hand,) = torch.autograd.grad(
            method.losses("student", part())["gan"], [method.student.head.weight], retain_graph=True
        )
    assert losses["match"].item() == 0.0
    measured = method.student.head.weight.grad
    assert measured.norm() > 0 and torch.allclose(measured, by_hand) and logits[0].requires_grad
    assert all(g is None for g in gradients(method, "critic")), "critic and head are frozen in the student's turn"


def test_a_gradient_step_fools_the_head():
    method = made(gan=GAN(weight=1.0, time=KarrasLevel(0.2, 0.4)), critic=lambda: network(2))
    optimizer = torch.optim.Adam(method.student.parameters(), lr=3e-3)
    values = []
    for _ in range(15):
        with method.only("student"):
            loss = method.extras[0].losses(method, "student", part())["gan"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] - 1e-3, values


@pytest.mark.parametrize("cls", [DMD2, SiD])
def test_head_and_critic_learn(cls: type[ScoreDistiller]):
    method = made(cls)
    head = list(method.extras[0].heads.parameters())
    assert all(any(p is q for q in method.trained_parameters["critic"]) for p in head)
    with method.only("critic"):
        losses = method.losses("critic", part())
        losses["gan"].backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in head)
    assert any(p.grad is not None and p.grad.norm() > 0 for p in method.critic.parameters())
    assert all(g is None for g in gradients(method, "student"))
    assert not any(p.grad is not None for p in method.teacher.parameters())


def test_on_the_teacher_the_critic_is_free_of_the_term():
    torch.manual_seed(0)
    with_gan = made(gan=GAN(features="teacher", discriminator_weight=1.0))
    without = made(extras=[])
    teacher = {k: v.clone() for k, v in with_gan.teacher.state_dict().items()}
    for method in (with_gan, without):
        with method.only("critic"):
            sum(method.losses("critic", part()).values()).backward()
    for one, other in zip(with_gan.critic.parameters(), without.critic.parameters(), strict=True):
        assert one.grad is not None and torch.equal(one.grad, other.grad)
    assert all(p.grad is not None and p.grad.norm() > 0 for p in with_gan.extras[0].heads.parameters())
    with with_gan.only("student"):
        gan = with_gan.losses("student", part())["gan"]
        gan.backward()
    assert with_gan.student.head.weight.grad.norm() > 0
    assert all(torch.equal(v, teacher[k]) for k, v in with_gan.teacher.state_dict().items())
    assert not any(p.grad is not None or p.requires_grad for p in with_gan.teacher.parameters())


@pytest.mark.parametrize("features", ["critic", "teacher"])
def test_in_training(features: str, tmp_path):
    """The head moves, the teacher does not, both terms are logged, and a resumed run is the same run."""
    path, ends = str(tmp_path / "gan.ckpt"), []
    for ckpt_path in (None, path):
        method = made(gan=GAN(features=features))  # type: ignore[arg-type]
        before = {k: v.clone() for k, v in method.state_dict().items()}
        run = trainer(6, StopAfter(6, 2, None if ckpt_path else path))
        run.fit(method, ToyData(batch_size=4), ckpt_path=ckpt_path, weights_only=True)
        after = dict(method.state_dict())
        for name, value in before.items():
            still = name.startswith(("teacher.", "codec."))
            assert torch.equal(value, after[name]) == still, name
        assert {"student/gan", "critic/gan"} <= run.callback_metrics.keys()
        ends.append(after)
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert any(name.startswith("extras.0.heads.") for name in torch.load(path, weights_only=True)["state_dict"])


def test_the_start_counts_student_updates():
    method, seen = made(SiD, GAN(start=2)), []
    original = method.losses

    def losses(role: str, piece: MicroBatch) -> dict[str, Tensor]:
        found = original(role, piece)
        seen.append((method.iteration, role, "gan" in found))
        return found

    method.losses = losses  # type: ignore[method-assign]
    trainer(4).fit(method, ToyData(batch_size=4))
    # The critic comes first; in iteration 2 two student updates lie behind it.
    assert seen == [(i, role, i >= 2) for i in range(4) for role in ("critic", "student")]


def test_data_free_batches_are_refused():
    with pytest.raises(UserError, match="needs real samples"):
        made().losses("critic", part(with_data=False))
    with pytest.raises(UserError, match="needs real samples"):
        trainer(1).fit(made(), FreeData(batch_size=4))


@pytest.mark.parametrize("features", ["critic", "teacher"])
def test_a_method_without_a_critic_is_refused(features: str):
    with pytest.raises(UserError, match="critic, which TeacherTraining does not have"):
        build(TeacherTraining, extras=[GAN(features=features)]).configure_model()  # type: ignore[arg-type]


def test_a_wrong_layer_is_named():
    with pytest.raises(UserError, match="blocks"):
        build(DMD2, extras=[GAN(layer="block.1")]).configure_model()


# ---------------------------------------------------------------------- a discriminator of its own


def test_an_own_network_is_a_role_of_its_own():
    """It starts as the teacher, learns after the critic with its own optimizer, and no other role moves it."""
    gan = GAN(features="own", discriminator_weight=1.0, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    method = made(gan=gan)
    assert method.roles() == ("student", "critic", "discriminator")
    assert method.all_turns(0) == ("student", "critic", "discriminator")
    assert method.all_turns(1) == ("critic", "discriminator") and method.turns(1) == ("critic",)
    own = method.extras[0].own
    for mine, theirs in zip(own.parameters(), method.teacher.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine.requires_grad
    moved: list[tuple[str, bool]] = []
    original = method.update

    def update(role: str, parts: Any) -> None:
        before = [p.detach().clone() for p in (*own.parameters(), *method.extras[0].heads.parameters())]
        others = [p.detach().clone() for p in (*method.student.parameters(), *method.critic.parameters())]
        original(role, parts)
        after = (*own.parameters(), *method.extras[0].heads.parameters())
        moved.append((role, any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))))
        rest = (*method.student.parameters(), *method.critic.parameters())
        assert (role == "discriminator") == all(torch.equal(a, b) for a, b in zip(others, rest, strict=True))

    method.update = update  # type: ignore[method-assign]
    run = trainer(2)
    run.fit(method, ToyData(batch_size=4))
    assert moved == [(role, role == "discriminator") for i in (0, 1) for role in method.all_turns(i)]
    assert {"discriminator/gan", "student/gan", "discriminator/grad_norm"} <= run.callback_metrics.keys()
    assert "critic/gan" not in run.callback_metrics


@pytest.mark.parametrize("follows", ["critic", "student"])
def test_a_discriminator_judges_the_samples_of_the_turn_before_it_without_their_graph(follows: str):
    own = GAN(features="own", optimizer=torch.optim.Adam)
    method = made(gan=own) if follows == "critic" else build(WithoutDistillation)
    method.configure_model()
    (gan,) = method.extras
    assert gan.follows == follows
    piece, judged = part(), []
    before = method.rollout(piece, follows).x0
    gan.logits = lambda method, *all: judged.extend(x0 for x0, *_ in all) or (torch.zeros(6, 1),) * 2  # type: ignore
    gan.own_losses(method, piece)
    real, fake = judged
    assert torch.equal(real, piece.x0) and torch.equal(fake, before.detach()) and not fake.requires_grad


def test_the_own_role_starts_when_the_term_does():
    method = made(gan=GAN(features="teacher", optimizer=torch.optim.Adam, start=1))
    assert method.all_turns(0) == ("student", "critic")
    fresh = build(DMD2, extras=[GAN(features="own", network=lambda: network(9))])
    fresh.configure_model()
    assert torch.equal(fresh.extras[0].own.head.weight, network(9).head.weight)


@pytest.mark.parametrize("features", ["critic", "teacher", "own"])
def test_an_own_role_resumes_bit_for_bit(features: str, tmp_path):
    path, ends = str(tmp_path / "gan.ckpt"), []
    for ckpt_path in (None, path):
        method = made(gan=GAN(features=features, optimizer=torch.optim.Adam, r1_weight=1.0))  # type: ignore[arg-type]
        trainer(6, StopAfter(6, 2, None if ckpt_path else path)).fit(
            method, ToyData(batch_size=4), ckpt_path=ckpt_path, weights_only=True
        )
        ends.append(dict(method.state_dict()))
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_two_own_discriminators_are_refused():
    with pytest.raises(UserError, match="bring the role 'discriminator'"):
        build(DMD2, extras=[GAN(features="own"), GAN(features="own")]).configure_model()


# ---------------------------------------------------------------------- R1, layers, shared noise


def test_r1_is_zero_without_noise_and_by_hand_with_it():
    for noise in (0.0, 0.2):
        gan = GAN(
            features="teacher", discriminator_weight=0.5, r1_weight=100.0, r1_noise=noise, time=KarrasLevel(0.2, 0.6)
        )
        method, piece = made(gan=gan), part()
        method.losses("student", piece)
        logits = logits_of(method)
        losses = method.losses("critic", piece)
        real, _, moved = logits[0].chunk(3)
        if noise == 0.0:
            assert losses["r1"].item() < 1e-12, "the same but for rounding: all rows are one batch"
        else:
            torch.testing.assert_close(losses["r1"], 50.0 * (real - moved).square().mean())
            assert losses["r1"] > 0
    assert "r1" not in made().losses("critic", part())


def test_several_layers_have_a_head_each():
    method, piece = made(gan=GAN(layer=["blocks.0", "blocks.1"], time=KarrasLevel(0.2, 0.6))), part()
    first, second = [], []
    method.extras[0].heads[0].register_forward_hook(lambda _, __, output: first.append(output))
    method.extras[0].heads[1].register_forward_hook(lambda _, __, output: second.append(output))
    loss = method.losses("student", piece)["gan"]
    torch.testing.assert_close(loss, 3e-3 * F.softplus(-torch.stack([first[0], second[0]])).mean())


JUDGED = [
    (DMD2, "teacher", Guidance(), 1),
    (DMD2, "teacher", Guidance(teacher=2.0), 0),
    (DMD2, "critic", Guidance(teacher=2.0), 1),
    (DMD2, "critic", Guidance(critic=1.5), 0),
    (SiD, "teacher", Guidance(teacher=2.0, critic=2.0), 1),
    (DecoupledDMD, "teacher", Guidance(teacher=4.0), 1),
    (SwiftBrush, "critic", Guidance(teacher=2.0, critic=1.5), 0),
]
"""Method, features, guidance, and the calls saved. With guidance and without gradients through the scores the pair of
calls of twice the batch becomes two of the batch, so that only the half that is judged has a graph."""


@pytest.mark.parametrize(("cls", "features", "guidance", "saved"), JUDGED)
def test_one_call_gives_scores_and_features(cls: type[ScoreDistiller], features: str, guidance: Guidance, saved: int):
    """Judging where the scores are compared costs no call more, and changes neither losses nor gradients."""
    critic = {"critic": StirredLoRA(rank=2)} if cls is SwiftBrush else {}
    found, calls = [], []
    for share in (True, False):
        gan = GAN(weight=0.5, features=features, at_scores=True)  # type: ignore[arg-type]
        method = made(cls, gan, guidance=guidance, **critic).double()
        if not share:
            gan.watching = lambda *_: {}  # type: ignore[method-assign]
        asked = [0]
        gan.network(method).backbone.register_forward_hook(lambda *_, asked=asked: asked.__setitem__(0, asked[0] + 1))
        with method.only("student"):
            losses = method.losses("student", part())
            gradients = torch.autograd.grad(sum(losses.values()), method.trained_parameters["student"])
        found.append([losses["gan"], losses["match"], *gradients])
        calls.append(asked[0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert found[0][0].requires_grad and calls[0] == calls[1] - saved


def test_a_network_that_is_not_told_the_condition_judges_by_a_call_of_its_own():
    method, piece = made(DMD2, GAN(features="critic", at_scores=True), guidance=Guidance(critic=0.0)), part()
    logits = logits_of(method)
    loss = method.losses("student", piece)["gan"]
    inputs = piece.score_inputs["critic"]
    x_t, t = inputs.x_t, inputs.t
    torch.testing.assert_close(loss, 3e-3 * F.softplus(-method.extras[0].judge(method, x_t, t, piece.condition)).mean())
    assert len(logits) == 2


def test_layers_after_the_last_feature_are_not_computed():
    method = made(gan=GAN(layer=["blocks.0"], time=KarrasLevel(0.2, 0.6)))
    after: list[int] = []
    method.critic.blocks[1].register_forward_hook(lambda *_: after.append(1))
    piece = part()
    method.student_loss(piece)
    method.critic_loss(piece)
    count = len(after)
    method.extras[0].losses(method, "student", piece)
    method.extras[0].losses(method, "critic", piece)
    assert len(after) == count > 0


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_passes_of_each_turn(scale: float, shared: bool):
    """Network, rows, and whether a graph may be recorded; then whether one reaches the heads."""
    schedule = UpdateSchedule(critic_first=False, reuse_rollout=shared)
    gan = GAN(features="teacher", layer="blocks.0", at_scores=True)
    method = made(gan=gan, schedule=schedule, guidance=Guidance(teacher=scale))
    passes: list[tuple[str, int, bool]] = []
    reaches: list[bool] = []
    for name in ("teacher", "student", "critic"):
        getattr(method, name).register_forward_pre_hook(
            lambda _, inputs, name=name: passes.append((name, len(inputs[0]), torch.is_grad_enabled()))
        )
    gan.heads[0].register_forward_pre_hook(lambda _, inputs: reaches.append(inputs[0].requires_grad))
    piece = part()
    for role in ("student", "critic"):
        piece.begin_turn(role)
        with method.only(role):
            torch.stack(list(method.losses(role, piece).values())).sum().backward()
        piece.end_turn(role)
    guided = [("teacher", 6, False)] if scale != 1.0 else []
    own = [] if shared else [("student", 6, False)]
    student = [("student", 6, True), ("teacher", 6, True), *guided, ("critic", 6, False)]
    assert passes == [*student, *own, ("critic", 6, True), ("teacher", 12, True)]
    assert reaches == [True, False]


def test_a_gan_reads_features_of_an_adapted_critic():
    """The layers are those of the shared network, seen through the adapter."""
    method = made(SwiftBrush, GAN(discriminator_weight=1.0), critic=StirredLoRA(rank=2), guidance=Guidance())
    with method.only("critic"):
        method.losses("student", part())
        piece = part()
        method.losses("critic", piece)["gan"].backward()
    behind = method.critic.by_path()["blocks.0.hidden"]
    assert behind.up.weight.grad.norm() > 0 and not any(p.grad is not None for p in method.teacher.parameters())
