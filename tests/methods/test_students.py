"""WaDi, MSD with TSM, SDXS: students of other kinds (fp64)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from every_method import fit, make
from toys import CLASSES, StirredLoRaD, ToyData, build, network, trainer

from fastgen.conditions import Guidance
from fastgen.denoisers.wrappers.lorad import LoRaD
from fastgen.denoisers.wrappers.routed import LabelRouter, PromptRouter, Routed, pooled
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.methods import DMD2, MSD, SDXS, TSM, DiffInstruct, SwiftBrush, WaDi
from fastgen.objectives.similarity import C1, C2, dissimilarity, ssim
from fastgen.randomness import Draws

pytestmark = pytest.mark.filterwarnings("ignore")
LABEL = torch.arange(6) % CLASSES
THREE = LabelRouter(3)


def part(noise: Any = None, rows: Any = slice(None)) -> MicroBatch:
    x0 = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    indices = torch.arange(6)[rows].tolist()
    noise = None if noise is None else noise[rows]
    return MicroBatch(x0[rows], {"label": LABEL[rows]}, Draws(1, indices, "train"), noise=noise)


def double(seed: int, **kwargs: Any) -> Any:
    return lambda: network(seed, **kwargs).double()


# ---------------------------------------------------------------------- WaDi


def test_wadi_is_swiftbrush_with_turned_weights():
    roles = {"student": StirredLoRaD(3, layers="*"), "critic": StirredLoRaD(2, layers="*")}
    losses = []
    for cls, scales in ((WaDi, None), (SwiftBrush, Guidance(teacher=1.5, critic=1.5))):
        method = cls(teacher=double(0), **roles, **({} if scales is None else {"guidance": scales}))
        method.configure_model()
        losses.append(method.losses("student", part())["match"])
        assert {type(c).__name__ for c in method.student.by_path().values()} == {"Rotation"}
    assert torch.equal(*losses)
    with pytest.raises(UserError, match="Say which in layers"):
        WaDi(teacher=double(0)).configure_model()
    assert make(WaDi).guidance.teacher == 1.5 and LoRaD().rank == 256


# ---------------------------------------------------------------------- MSD


def msd(cls: Any = MSD, **kwargs: Any) -> Any:
    roles = {name: double(seed) for seed, name in enumerate(("teacher", "student", "critic"))}
    if cls is MSD:
        kwargs |= {"router": THREE}
    method = cls(**roles, schedule=UpdateSchedule(), **kwargs)
    method.configure_model()
    return method


def test_each_student_learns_what_it_would_alone():
    """The gradient of a part's student is that of DMD2 on the part's samples, over the number of all."""
    together, piece = msd(), part()
    with together.only("student"):
        together.student_loss(piece)["match"].backward()
    for index in range(3):
        rows = [i for i in range(6) if LABEL[i] == index]
        alone, own = msd(DMD2), part(rows=rows)
        with alone.only("student"):
            alone.student_loss(own)["match"].backward()
        for one, other in zip(together.student.part(index).parameters(), alone.student.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad * len(rows) / 6, rtol=1e-6, atol=1e-12)
        with together.only("critic"), alone.only("critic"):
            values = [m.critic_loss(p)["denoising"] for m, p in ((together, part(rows=rows)), (alone, part(rows=rows)))]
        torch.testing.assert_close(*values)


def test_labels_are_parted_in_blocks():
    assert LabelRouter(4).route({"label": torch.arange(1000)}, 1000, None).bincount().tolist() == [250] * 4
    assert LabelRouter(2).route({"label": torch.arange(3)}, 3, None).tolist() == [0, 0, 1]


def test_prompts_are_parted_by_the_nearest():
    anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    condition = {"prompt_embeds": torch.tensor([[[3.0, 1.0]], [[0.1, 2.0]], [[-5.0, 1.0]]])}
    assert PromptRouter(["a", "b", "c"]).route(condition, 0, anchors).tolist() == [0, 1, 2]
    assert pooled({**condition, "pooled": torch.ones(3, 4)}).shape == (3, 4)


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: msd(guidance=Guidance(critic=2.0)), "none for no condition"),
        (lambda: LabelRouter(4).count(network(0)), "4 parts, but the network knows 3 labels"),
        (lambda: PromptRouter(["a", "b"]).count(network(0)), "takes none"),
        (lambda: PromptRouter(["a"]), "give two or more"),
        (lambda: TSM(double(0), router=THREE, condition_dropout=0.1), "leave condition_dropout at 0"),
    ],
)
def test_what_cannot_be_parted_is_refused(make_it: Any, message: str):
    with pytest.raises(UserError, match=message):
        make_it()


def test_one_checkpoint_holds_all_and_tsm_comes_first(tmp_path):
    path = str(tmp_path / "tsm.ckpt")
    small = lambda: network(3, width=8)  # noqa: E731
    first = TSM(small, router=THREE, teacher=double(0))
    fit(first, 3)
    first.trainer.save_checkpoint(path)
    method = build(MSD, student=small, router=THREE)
    method.init_from = path
    method.configure_model()
    run = trainer(0, max_steps=1)
    run.fit(method, ToyData(batch_size=4))
    assert isinstance(method.student, Routed) and len(method.student.networks) == 3
    assert set(torch.load(path, weights_only=True)["state_dict"]) == {
        f"student.networks.{i}.{name}" for i in range(3) for name in small().state_dict()
    }
    assert method.sample([0, 1], {"label": torch.tensor([0, 2])}).shape == (2, 2)


def test_teacher_score_matching_by_hand():
    method, piece = TSM(double(1), teacher=double(0), router=None), part()
    method.configure_model()
    value = method.student_loss(piece)["matching"]
    draws = piece.draws.scoped("student")
    t = method.time.sample(draws, method.student.process)
    x_t = piece.x0 + t[:, None] * draws.normal("noise", (2,), torch.float64)
    ours, theirs = (n(x_t, t, piece.condition).x0 for n in (method.student, method.teacher))
    expected = ((t**-2 + 4.0)[:, None] * (ours - theirs.detach()).square()).mean()
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=0)
    same = TSM(double(0), teacher=double(0))
    same.configure_model()
    assert same.student_loss(part())["matching"].item() == 0.0


# ---------------------------------------------------------------------- SDXS


def test_ssim_by_hand():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 2, 4, 4, generator=g, dtype=torch.float64)
    found = ssim(a, b, window=3)
    scale = b.flatten(1).square().mean(1).sqrt()
    total = torch.zeros(3, dtype=torch.float64)
    for sample in range(3):
        for channel in range(2):
            for i in range(2):
                for j in range(2):
                    p, q = (v[sample, channel, i : i + 3, j : j + 3].flatten() / scale[sample] for v in (a, b))
                    top = (2 * p.mean() * q.mean() + C1) * (2 * ((p * q).mean() - p.mean() * q.mean()) + C2)
                    below = (p.mean() ** 2 + q.mean() ** 2 + C1) * (p.var(unbiased=False) + q.var(unbiased=False) + C2)
                    total[sample] += top / below / 8
    torch.testing.assert_close(found, total, rtol=1e-10, atol=1e-12)
    for features in (a, a.flatten(2).mT, a.flatten(1)):
        torch.testing.assert_close(ssim(features, features), torch.ones(3, dtype=torch.float64))


def sdxs(**kwargs: Any) -> Any:
    roles = {name: double(seed) for seed, name in enumerate(("teacher", "student", "critic"))}
    method = SDXS(**roles, layers=["blocks.0", "blocks.1"], **kwargs)
    method.configure_model()
    return method


NOISE = torch.randn(6, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def test_levels_part_scores_and_features():
    method, piece = sdxs(warmup=0, fade=10, threshold=0.5, matching=0.7), part(NOISE)
    method.loaded_updates = 4
    losses = method.student_loss(piece)
    inputs, found = piece.score_inputs["critic"], piece.comparisons["critic"]
    x = inputs.rollout.x0
    below = method.student.process.fraction(inputs.t) <= 0.5
    assert below.any() and not below.all()
    match = (below[:, None] * (found.fake.x0 - found.real.x0) * x).sum(1).mean()
    torch.testing.assert_close(losses["match"], match)
    features = 0.7 * 0.6 * ((~below) * method.apart(piece)).mean()
    torch.testing.assert_close(losses["features"], features)
    z = piece.pair[0]
    torch.testing.assert_close(x, method.student(80.0 * z, torch.full((6,), 80.0).double(), piece.condition).x0)
    gradients = torch.autograd.grad(losses["features"], x, retain_graph=True)[0]
    assert (gradients[below] == 0).all() and (gradients[~below] != 0).any()


def test_before_the_warm_up_is_over_features_are_all():
    method, piece = sdxs(warmup=5), part(NOISE)
    losses = method.student_loss(piece)
    assert losses["match"].item() == 0.0
    torch.testing.assert_close(losses["features"], method.apart(piece).mean())


def test_above_no_threshold_it_is_diff_instruct():
    method, piece = sdxs(warmup=0, threshold=1.0), part(NOISE)
    losses = method.student_loss(piece)
    x, found = piece.score_inputs["critic"].rollout.x0, piece.comparisons["critic"]
    assert losses["features"].item() == 0.0
    torch.testing.assert_close(losses["match"], build(DiffInstruct).form(x, found.real, found.fake))


def test_the_teachers_own_image_has_all_features_and_pairs_may_be_made_on_the_way():
    features = {"a": torch.randn(2, 5), "b": torch.randn(2, 3, 4, 4)}
    assert dissimilarity(features, features).abs().max() < 1e-6
    method, piece = sdxs(), part()
    noise, x0 = method.pair(piece)
    torch.testing.assert_close(x0, method.solver.solve(method.teacher, noise, piece.condition))
