"""What every method promises. A new method is tested from the day ``fastgen.methods`` imports it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from every_method import FEW_STEPS, GRADIENT_FREE, METHODS, fit, iterations, make, roles_of
from torch import Tensor
from toys import FreeData, StopAfter, ToyData, gradient_descent, trainer

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.networks.mlp import MLP
from fastgen.errors import UserError
from fastgen.extras import ImplicitAlignment
from fastgen.methods import Distiller
from fastgen.sampling.samplers import RenoiseSampler

every_method = pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)
BY_GRADIENT = [cls for cls in METHODS if cls.__name__ not in GRADIENT_FREE]
every_method_with_gradients = pytest.mark.parametrize("cls", BY_GRADIENT, ids=lambda cls: cls.__name__)

ENGINE = {
    "training_step",
    "parts",
    "draws",
    "update",
    "losses",
    "clip",
    "is_bad",
    "configure_optimizers",
    "on_fit_start",
}
KINDS = [
    cls
    for cls in METHODS
    if cls.__name__ in ("DMD2", "MeanFlow", "RegularisedSCM", "SiD")
    or any(ENGINE & vars(part).keys() for part in cls.__mro__[: cls.__mro__.index(Distiller)])
]
"""A few methods with one role and with several, and all that override what the engine does with any."""
every_kind = pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.__name__)
KINDS_BY_GRADIENT = [cls for cls in KINDS if cls.__name__ not in GRADIENT_FREE]
every_kind_with_gradients = pytest.mark.parametrize("cls", KINDS_BY_GRADIENT, ids=lambda cls: cls.__name__)

pytestmark = pytest.mark.filterwarnings("ignore")


def flat(method: Distiller, role: str) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in method.trained_parameters[role]])


def frozen(method: Distiller) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in method.state_dict().items() if k.startswith(("teacher.", "codec.", "averages."))}


def spy(method: Distiller, watch: Callable[[str, Callable[[], None]], None]) -> None:
    """Let ``watch(role, update)`` stand around every update."""
    original = method.update
    method.update = lambda role, parts: watch(role, lambda: original(role, parts))  # type: ignore[method-assign]


def equal(one: Any, other: Any) -> bool:
    """Bitwise equality of nested containers of tensors."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def test_the_methods_are_found():
    assert {"DMD2", "SiD", "TeacherTraining"} <= {cls.__name__ for cls in METHODS}


@every_method
def test_a_turn_changes_its_role_and_nothing_else(cls: type[Distiller]):
    method, seen = make(cls), []
    method.request_average("ema")

    def watch(role: str, update: Callable[[], None]) -> None:
        before, still = {r: flat(method, r) for r in method.roles()}, frozen(method)
        update()
        moved = {r for r in method.roles() if not torch.equal(before[r], flat(method, r))}
        aligned = {e.role for e in method.each_extra() if isinstance(e, ImplicitAlignment) and e.follows == role}
        assert moved == {role} | aligned
        assert equal(still, frozen(method))
        assert all(p.requires_grad for ps in method.trained_parameters.values() for p in ps)
        seen.append(role)

    spy(method, watch)
    count = iterations(cls)
    metrics = fit(method, count)
    assert seen == [role for i in range(count) for role in method.all_turns(i)]
    assert method.iteration == count and metrics["updates"] == seen.count("student")
    assert all(torch.tensor(v).isfinite() for v in metrics.values()), metrics
    for role in method.roles():
        assert cls.__name__ in GRADIENT_FREE or metrics[f"{role}/grad_norm"] > 0
        assert any(name.startswith(f"{role}/") and name != f"{role}/grad_norm" for name in metrics)
    average = method.averages["ema"]
    assert not any(p.requires_grad for p in average.parameters())
    assert method.network("average") is average


@every_method
def test_only_the_role_of_the_turn_trains_and_every_iteration_has_its_own_samples(cls: type[Distiller]):
    """Sample n of the run has number n, so its random numbers are its own; micro-batches take theirs in order."""
    method, numbers = make(cls, micro_batches=2), {}
    original = method.losses

    def losses(role: str, part: Any) -> dict[str, Tensor]:
        numbers.setdefault((method.iteration, role, part.turn(role)), []).extend(part.draws.indices)
        assert part.draws.step == method.iteration
        for name, modules in method.all_trained_modules().items():
            assert all(m.training == (name == role) for module in modules for m in module.modules())
            assert all(p.requires_grad == (name == role) for p in method.trained_parameters[name])
        if method.teacher is not None:
            assert not method.teacher.training
            assert not any(p.requires_grad or p.grad is not None for p in method.teacher.parameters())
        return original(role, part)

    method.losses = losses  # type: ignore[method-assign]
    count = max(2, iterations(cls))
    fit(method, count)
    assert {i for i, _, _ in numbers} == set(range(count))
    assert all(indices == list(range(4 * i, 4 * i + 4)) for (i, _, _), indices in numbers.items())


@every_method
def test_resuming_changes_no_bit_and_another_seed_every_sample(cls: type[Distiller], tmp_path: Path):
    path = str(tmp_path / "half.ckpt")
    half = iterations(cls)
    count = iterations(cls, half)

    def run(ckpt_path: str | None) -> tuple[Distiller, list[Any], int]:
        torch.manual_seed(torch.seed())  # global state must not matter
        method = make(cls, seed=3)
        method.request_average("ema")
        run = trainer(count, StopAfter(count, half, path if ckpt_path is None else None))
        run.fit(method, ToyData(batch_size=4), ckpt_path=ckpt_path, weights_only=True)
        return method, [o.state_dict() for o in run.optimizers], run.global_step

    straight, optimizers, steps = run(None)
    resumed, again, steps_again = run(path)
    assert resumed.iteration == straight.iteration == count and steps == steps_again
    assert equal(dict(straight.state_dict()), dict(resumed.state_dict()))
    assert len(optimizers) == len(straight.roles()) and equal(optimizers, again)

    checkpoint = torch.load(path, weights_only=True)
    names = checkpoint["state_dict"].keys()
    assert not [n for n in names if n.startswith(("teacher.", "codec."))]
    assert any(n.startswith("student.") for n in names) and any(n.startswith("averages.ema.") for n in names)
    assert checkpoint["fastgen"]["iteration"] == half
    assert not equal(checkpoint["state_dict"], {n: straight.state_dict()[n] for n in names})
    other = make(cls, seed=4)
    fit(other, half)
    saved = {n: v for n, v in checkpoint["state_dict"].items() if n.startswith("student.")}
    assert any(not torch.equal(other.state_dict()[n], v) for n, v in saved.items())


@every_kind
def test_a_checkpoint_of_another_method_is_refused(cls: type[Distiller], tmp_path: Path):
    path = str(tmp_path / "own.ckpt")
    fit(make(cls), 1, StopAfter(1, 1, path))
    other = next(c for c in METHODS if c is not cls)
    with pytest.raises(UserError, match="belongs to"):
        trainer(2).fit(make(other), ToyData(batch_size=4), ckpt_path=path, weights_only=True)


@every_method
def test_samples_belong_to_their_seeds(cls: type[Distiller]):
    method = make(cls)
    method.configure_model()
    seeds, label = [11, 5, 8, 5], torch.tensor([0, 2, 1, 2])
    for steps in (None, 1, 3):
        points = method.sample(seeds, {"label": label}, steps=steps)
        assert points.shape == (4, 2) and points.dtype == torch.float32 and bool(points.isfinite().all())
        assert not points.requires_grad
        for i in range(4):
            alone = method.sample(seeds[i : i + 1], {"label": label[i : i + 1]}, steps=steps)
            torch.testing.assert_close(alone, points[i : i + 1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(points[1], points[3], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(points[0], points[1])
    assert method.student.training, "sampling must leave the mode as it was"
    with pytest.raises(UserError, match="at least one step"):
        method.sample([0], {"label": label[:1]}, steps=0)
    with pytest.raises(UserError, match="no network 'ema'"):
        method.sample([0], {"label": label[:1]}, role="ema")


@every_method_with_gradients
def test_micro_batches_give_the_gradient_of_the_whole_batch(cls: type[Distiller]):
    ends = []
    for micro_batches in (1, 4):
        method = make(cls, micro_batches=micro_batches, **gradient_descent(cls, 1e-3))
        count = iterations(cls)
        start: dict[str, Tensor] = {}

        def watch(role: str, update: Callable[[], None], method: Distiller = method, start: dict = start) -> None:
            start.setdefault(role, flat(method, role))
            update()

        spy(method, watch)
        fit(method, count)
        assert start.keys() == set(method.roles())
        ends.append({role: flat(method, role) - start[role] for role in start})
    for end in ends[1:]:
        for role, moved in end.items():
            assert (moved - ends[0][role]).norm() < 1e-6 * max(1.0, ends[0][role].norm()), role
            assert ends[0][role].norm() > 5e-6


@every_kind
def test_a_batch_that_cannot_be_cut_is_refused(cls: type[Distiller]):
    with pytest.raises(UserError, match="3 equal pieces"):
        fit(make(cls, micro_batches=3), 1)


@every_kind_with_gradients
def test_gradients_are_clipped_by_role(cls: type[Distiller]):
    """With gradient descent at rate 1 a parameter moves by its clipped gradient."""
    for clipped in (*roles_of(cls), None):
        limit: Any = 1e-3 if clipped is None else {clipped: 1e-3}
        method = make(cls, gradient_clip=limit, **gradient_descent(cls, 1.0))
        moved: dict[str, float] = {}

        def watch(role: str, update: Callable[[], None], method: Distiller = method, moved: dict = moved) -> None:
            before = flat(method, role).double()
            update()
            moved.setdefault(role, (flat(method, role).double() - before).norm().item())

        spy(method, watch)
        metrics = fit(method, 1 if clipped is None else iterations(cls))
        assert metrics["student/grad_norm"] > 2e-3, "the norm is that before clipping"
        for role, distance in moved.items():
            if clipped in (role, None):
                assert abs(distance - 1e-3) < 1e-5
            else:
                assert distance > 2e-3


@every_method_with_gradients
def test_bad_gradients_are_skipped_and_counted(cls: type[Distiller]):
    for bad in roles_of(cls):
        method, at = make(cls), iterations(cls) - 1
        method.configure_model()
        original = method.losses
        while bad not in method.all_turns(at):
            at -= 1

        def losses(
            role: str, part: Any, method: Distiller = method, original: Any = original, at: int = at, bad: str = bad
        ) -> dict[str, Tensor]:
            first = (role, method.iteration, part.turn(role)) == (bad, at, 0)
            poison = float("nan") if first else 1.0
            return {name: value * poison for name, value in original(role, part).items()}

        def watch(
            role: str, update: Callable[[], None], method: Distiller = method, at: int = at, bad: str = bad
        ) -> None:
            before, steps = flat(method, role), method.global_step
            skipped = (role, method.iteration) == (bad, at) and not method.bad_steps_total
            update()
            assert torch.equal(before, flat(method, role)) == skipped
            assert (method.global_step == steps) == (skipped or role != "student")

        method.losses = losses  # type: ignore[method-assign]
        spy(method, watch)
        fit(method, at + 1)
        assert method.bad_steps_total == 1 and method.iteration == at + 1


@every_kind_with_gradients
def test_too_many_bad_gradients_stop_the_run(cls: type[Distiller]):
    method = make(cls, max_bad_steps=2)
    original = method.losses
    method.losses = lambda role, part: {k: v * float("inf") for k, v in original(role, part).items()}  # type: ignore
    with pytest.raises(UserError, match="not finite in 2 updates in a row"):
        fit(method, 30)
    assert all(p.isfinite().all() for p in method.student.parameters())


@every_kind_with_gradients
def test_only_bad_gradients_in_a_row_stop_the_run(cls: type[Distiller]):
    method, seen = make(cls, max_bad_steps=2), dict.fromkeys(roles_of(cls), 0)
    original = method.losses

    def losses(role: str, part: Any) -> dict[str, Tensor]:
        seen[role] += 1
        return {name: value * (float("nan") if seen[role] % 2 else 1.0) for name, value in original(role, part).items()}

    method.losses = losses  # type: ignore[method-assign]
    fit(method, 6)
    assert method.iteration == 6 and method.bad_steps_total == sum((count + 1) // 2 for count in seen.values()) >= 3


@every_kind
def test_half_precision_with_loss_scaling_is_refused(cls: type[Distiller]):
    with pytest.raises(UserError, match="bf16"):
        fit(make(cls), 1, precision="16-true")
    method, stub = make(cls), SimpleNamespace(precision="16-mixed")  # a CPU trainer replaces it by bf16-mixed
    method.trainer = stub
    with pytest.raises(UserError, match="bf16"):
        method.on_fit_start()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@every_method
def test_what_learns_is_fp32_whatever_the_precision(cls: type[Distiller], precision: str):
    method = make(cls)
    metrics = fit(method, 1, precision=precision)
    assert all(torch.tensor(v).isfinite() for v in metrics.values())
    trained = [p for parameters in method.trained_parameters.values() for p in parameters]
    assert all(p.dtype in (torch.float32, torch.float64) for p in trained)
    if precision == "bf16-true" and isinstance(method.teacher, MLP):
        assert {p.dtype for p in method.teacher.parameters()} == {torch.bfloat16}
    assert method.sample([0], {"label": torch.tensor([1])}).dtype == torch.float32


@every_method
def test_validation_reports_every_role_and_changes_nothing(cls: type[Distiller]):
    method = make(cls)
    method.configure_model()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    results = []
    for _ in range(2):
        (metrics,) = trainer(1, limit_val_batches=2).validate(method, ToyData(batch_size=4), verbose=False)
        results.append(metrics)
    for role in method.roles():
        assert any(name.startswith(f"val/{role}/") for name in metrics), metrics
    assert all(torch.tensor(v).isfinite() for v in metrics.values()) and results[0] == results[1]
    assert equal(before, dict(method.state_dict()))


@every_method
def test_few_step_students_and_batches_of_one_sample(cls: type[Distiller]):
    method = make(cls, **FEW_STEPS.get(cls.__name__, {"sampler": RenoiseSampler([80.0, 5.0, 0.5])}))
    metrics = fit(method, iterations(cls), batch_size=1)
    unfit = {k for k, v in metrics.items() if not torch.tensor(v).isfinite()}
    assert not unfit - {"health/sample_std"}, metrics  # one sample has no spread
    assert method.sample([1, 2], {"label": torch.tensor([0, 1])}).shape == (2, 2)


@every_method
def test_data_free_training_works_or_says_why_not(cls: type[Distiller]):
    try:
        trainer(1).fit(make(cls), FreeData(batch_size=4))
    except UserError as error:
        assert "'x0' is missing" in str(error)


def test_a_method_without_networks_is_refused():
    with pytest.raises(UserError, match=r"model\.init_args\.teacher"):
        Distiller()


def test_networks_that_cannot_be_built_are_named():
    def broken() -> Denoiser:
        raise ValueError("no such thing")

    with pytest.raises(UserError, match="no such thing"):
        Distiller(teacher=broken).configure_model()
