from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import CLASSES, FreeData, StopAfter, ToyData, build, network, trainer

from fastgen.errors import UserError
from fastgen.extras import GAN
from fastgen.methods import DMD2, ScoreDistiller, SiD, TeacherTraining
from fastgen.methods.batch import MicroBatch
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
    method, piece = made(gan=GAN(weight=0.3, critic_weight=0.07, time=KarrasLevel(0.2, 0.6))), part()
    logits = logits_of(method)
    student, critic = (method.losses(role, piece)["gan"] for role in ("student", "critic"))
    generated, real, fake = logits
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
    method, piece = made(gan=GAN(weight=1.0, time=KarrasLevel(0.2, 0.4)), critic=lambda: network(2)), part()
    optimizer = torch.optim.Adam(method.student.parameters(), lr=3e-3)
    values = []
    for _ in range(15):
        with method.only("student"):
            method.student_loss(piece)
            loss = method.extras[0].losses(method, "student", piece)["gan"]
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
    with_gan = made(gan=GAN(features="teacher", critic_weight=1.0))
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
            still = name.startswith("teacher.")
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
