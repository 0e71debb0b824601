"""What holds for every role of every method: its schedule, its mode, its start, its random numbers, its codec."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from every_method import GRADIENT_FREE, METHODS, every_turn, fit, make
from torch import Tensor, nn
from toys import CLASSES, ToyCodec, ToyData, arguments, build, trainer

import fastgen.extras
from fastgen.denoisers.networks.log_weight import LogWeight
from fastgen.denoisers.wrappers.on_process import OnProcess
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.extras import Extra, Reward, RewardModel
from fastgen.methods import DMD2, GDD, KD, Distiller, FDistill, OptimalSteps, PiFlow, SiD
from fastgen.methods.flow_maps.eulerian import EulerianDistiller
from fastgen.processes import EDM, RectifiedFlow
from fastgen.randomness import Draws

pytestmark = pytest.mark.filterwarnings("ignore")
every_method = pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)
LABEL = torch.tensor([0, 1, 2, 1])


def scheduled(cls: type[Distiller]) -> dict[str, Any]:
    """A schedule for every role that takes one, each with a factor of its own."""
    names = [name for name in arguments(cls) if name.endswith("_lr_scheduler")]
    optimizers = {name: partial(torch.optim.Adam, lr=1e-3) for name in arguments(cls) if name.endswith("_optimizer")}
    factors = (0.5, 0.7, 0.9)
    return optimizers | {
        name: partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=factor)
        for name, factor in zip(names, factors, strict=False)
    }


@every_method
def test_every_schedule_steps_with_the_updates_of_its_role(cls: type[Distiller]):
    if cls.__name__ in GRADIENT_FREE | {"Progressive", "SlimFlow"}:  # its schedules begin anew with every stage
        return
    schedules = scheduled(cls)
    assert "student_lr_scheduler" in schedules
    method, updates = make(cls, **schedules), Counter[str]()
    original = method.update

    def update(role: str, parts: Any) -> None:
        original(role, parts)
        updates[role] += 1

    method.update = update  # type: ignore[method-assign]
    run = trainer(every_turn(cls, 2))
    run.fit(method, ToyData(batch_size=4))
    rates = {
        role: group["lr"] for role, o in zip(method.roles(), run.optimizers, strict=True) for group in o.param_groups
    }
    for role in method.roles():
        schedule = schedules.get(f"{role}_lr_scheduler")
        factor = 1.0 if schedule is None else schedule.keywords["gamma"]
        assert rates[role] == pytest.approx(1e-3 * factor ** updates[role]), role
    assert set(updates) == set(method.roles())


@every_method
def test_a_skipped_update_does_not_move_its_schedule(cls: type[Distiller]):
    if cls.__name__ in GRADIENT_FREE:
        return
    method = make(cls, **scheduled(cls))
    original = method.losses
    method.losses = lambda role, part: {k: v * float("nan") for k, v in original(role, part).items()}  # type: ignore
    run = trainer(1)
    run.fit(method, ToyData(batch_size=4))
    assert all(group["lr"] == 1e-3 for o in run.optimizers for group in o.param_groups)


@every_method
def test_samples_are_drawn_in_eval_mode(cls: type[Distiller]):
    method = make(cls)
    method.request_average("ema")
    method.configure_model()
    method.student.train()
    for role in ("student", "average", "teacher"):
        if role == "teacher" and method.teacher is None:
            continue
        modes: list[bool] = []
        modules = [m for m in method.network(role).modules() if not isinstance(m, nn.ModuleList | nn.ModuleDict)]
        before = [m.training for m in modules]
        lender = getattr(method.network(role), "network", None)
        watched = [*modules, *(lender.modules() if isinstance(lender, nn.Module) else [])]
        handles = [m.register_forward_pre_hook(lambda m, _, modes=modes: modes.append(m.training)) for m in watched]
        method.sample([1, 2], {"label": LABEL[:2]}, role=role)
        for handle in handles:
            handle.remove()
        assert modes and (not any(modes) or (role == "student" and cls.__name__ in GRADIENT_FREE)), role
        assert [m.training for m in modules] == before


@every_method
def test_samples_depend_on_nothing_of_the_training(cls: type[Distiller]):
    """Not on its seed, its progress, its rank or the global generator: on seed, condition and weights alone."""
    ends = []
    for seed, iteration in ((0, 0), (7, 123)):
        method = make(cls, seed=seed)
        method.configure_model()
        source = make(cls)
        source.configure_model()
        method.load_state_dict(source.state_dict())
        method.iteration = iteration
        torch.manual_seed(iteration)
        ends += [method.sample([5, 2**40], {"label": LABEL[:2]}, steps=steps) for steps in (None, 2)]
    assert torch.equal(ends[0], ends[2]) and torch.equal(ends[1], ends[3])


@every_method
def test_real_samples_and_conditions_are_encoded_once(cls: type[Distiller]):
    method, parts = make(cls), []
    original = method.losses

    def losses(role: str, part: MicroBatch) -> dict[str, Tensor]:
        parts.append(part)
        return original(role, part)

    method.losses = losses  # type: ignore[method-assign]
    data, codec = ToyData(batch_size=4), ToyCodec()
    trainer(1).fit(method, data)
    batch = next(iter(data.train_dataloader()))
    data._start_iteration = 0
    assert parts
    source = data.sources[0]
    for part in parts:
        rows = [int((codec.encode(source.x0) - x0).square().sum(1).argmin()) for x0 in part.x0]  # type: ignore
        torch.testing.assert_close(part.x0, codec.encode(source.x0[rows]))
        assert torch.equal(part.raw_condition["label"], source.label[rows])  # type: ignore[index]
        assert torch.equal(part.condition["label"], -source.label[rows] % CLASSES)  # type: ignore[index]
    encoded = {**batch, "encoded": True}
    (part,) = method.parts("train", encoded, 0)
    assert torch.equal(part.x0, batch["x0"]) and torch.equal(part.condition["label"], batch["condition"]["label"])


@every_method
def test_samples_are_decoded_once(cls: type[Distiller]):
    method = make(cls)
    method.configure_model()
    for role in ("student", *(["teacher"] if method.teacher is not None else [])):
        latents = method.latents([3, 4, 5, 6], {"label": -LABEL % CLASSES}, role=role)
        samples = method.sample([3, 4, 5, 6], {"label": LABEL}, role=role)
        torch.testing.assert_close(samples, ToyCodec().decode(latents).float())
    assert not method.codec.training


class Judge(RewardModel):
    """Notes how it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(2, 1), []

    def forward(self, samples: Tensor, condition: Mapping[str, Any]) -> Tensor:
        frozen = not any(p.requires_grad for p in self.parameters())
        training = any(m.training for m in self.modules())
        self.seen.append((training, frozen, torch.is_autocast_enabled("cpu"), samples, condition["label"]))
        return self.layer(samples).squeeze(1)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_reward_judges_pictures_in_eval_mode_and_full_precision(precision: str):
    method, label = build(KD, extras=[Reward(Judge, weight=1.0)]), []
    original = method.student_loss

    def student_loss(part: MicroBatch) -> dict[str, Tensor]:
        found = original(part)
        label.append((part.rollouts["student"].x0, part.raw_condition["label"]))
        return found

    method.student_loss = student_loss  # type: ignore[method-assign]
    fit(method, 2, precision=precision)
    (extra,) = method.each_extra()
    assert len(extra.model.seen) == 2  # type: ignore[union-attr]
    for (training, frozen, autocast, samples, asked), (x0, wanted) in zip(extra.model.seen, label, strict=True):  # type: ignore
        assert not training and frozen and not autocast and samples.dtype == torch.float32
        torch.testing.assert_close(samples, ToyCodec().decode(x0))
        assert torch.equal(asked, wanted)


class Late(Extra):
    """Notes when it acts; brings a role of its own."""

    def __init__(self, start: int) -> None:
        super().__init__(start=start)
        self.layer = nn.Linear(1, 1)
        self.acted: list[tuple[str, int]] = []

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        return {"late": [self.layer]}

    def optimizers(self) -> dict[str, Any]:
        return {"late": torch.optim.Adam}

    def turns(self, turns: tuple[str, ...], iteration: int) -> tuple[str, ...]:
        return (*turns, "late")

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        self.acted.append((role, method.global_step))
        return {"late": self.layer(torch.ones(1, 1)).sum()} if role == "late" else {}


@pytest.mark.parametrize("start", [0, 1, 2])
def test_extras_start_with_a_student_update(start: int):
    """However many iterations an update takes: here the critic has two of three for itself."""
    extra = Late(start)
    method = build(DMD2, schedule=UpdateSchedule(critic_updates=3, critic_first=True), extras=[extra])
    fit(method, 12)
    steps = {step for _, step in extra.acted}
    assert steps == set(range(start, 5)), "4 student updates, in iterations 0, 3, 6 and 9"
    assert {role for role, _ in extra.acted} == {"critic", "student", "late"}
    late = [step for role, step in extra.acted if role == "late"]
    # An iteration's turns are known before it: in iteration 0 no update is done.
    assert len(late) == sum(done >= start for done in (0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4)[:12])


EXTRAS = [value for name in fastgen.extras.__all__ if isinstance(value := getattr(fastgen.extras, name), type)]


@pytest.mark.parametrize(
    "cls", [e for e in EXTRAS if issubclass(e, Extra) and e is not Extra], ids=lambda c: c.__name__
)
def test_extras_keep_their_weight_and_start(cls: type[Extra]):
    parameters = inspect.signature(cls).parameters
    needed = {n: None for n, p in parameters.items() if p.default is p.empty}
    weight = {"weight": 0.25} if "weight" in parameters else {}  # one without a loss has none
    extra = cls(**needed, **weight, start=7)
    assert (extra.weight, extra.start) == (weight.get("weight", 1.0), 7)
    assert cls(**needed).start == 0


LARGEST = {"AYF": 0.99}
"""Where a warm-up ends before 1."""


@pytest.mark.parametrize(
    "cls",
    [c for c in METHODS if issubclass(c, EulerianDistiller)],
    ids=lambda cls: cls.__name__,
)
def test_warm_up_ends_at_one(cls: type[EulerianDistiller]):
    method = make(cls, warmup=10)
    for updates, expected in ((0, 0.0), (5, 0.5), (10, 1.0), (11, 1.0), (1000, 1.0)):
        method.loaded_updates = updates
        assert method.warmup_factor() == min(expected, LARGEST.get(cls.__name__, 1.0))
    assert make(cls, warmup=0).warmup_factor() == LARGEST.get(cls.__name__, 1.0)


def test_the_teacher_leads_less_and_less_and_then_not_at_all():
    method = make(PiFlow, mixing_updates=10)
    for updates, expected in ((0, 1.0), (5, 0.5), (10, 0.0), (11, 0.0), (1000, 0.0)):
        method.loaded_updates = updates
        assert method.teacher_share() == expected


def test_pi_flow_begins_a_segment_at_a_real_sample_if_there_is_one():
    method = make(PiFlow)
    method.configure_model()
    draws, starts, original = Draws(0, range(4), "train"), [], method.student.policy

    def policy(x_t: Tensor, t: Tensor, *others: Any) -> Any:
        starts.append((x_t, t))
        return original(x_t, t, *others)

    method.student.policy = policy
    x0 = torch.randn(4, 2)
    noise = draws.scoped("student").normal("noise", (2,))
    for real in (x0, None):
        method.student_loss(MicroBatch(real, {"label": LABEL}, draws))
    (at_real, t), (without, _) = starts[0], starts[-1]
    torch.testing.assert_close(at_real, x0 + t[:, None].float() * noise)
    torch.testing.assert_close(without, t[:, None].float() * noise)


@pytest.mark.parametrize("times", [1, 2])
def test_a_learned_weight_is_a_function_of_every_time_and_of_the_noise_level_alone(times: int):
    torch.manual_seed(0)
    weight = LogWeight(times=times)
    t = [torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64) * (i + 1) for i in range(times)]
    assert torch.equal(weight(EDM(), *t), torch.zeros(3)), "it starts at 0"
    nn.init.normal_(weight.linear.weight)
    found = weight(EDM(), *t)
    assert found.shape == (3,) and found.dtype == torch.float32 and found.std() > 1e-3
    for i in range(times):
        moved = weight(EDM(), *(time * 1.5 if k == i else time for k, time in enumerate(t)))
        assert bool(((moved - found).abs() > 1e-4).all())
    flow = RectifiedFlow()
    torch.testing.assert_close(weight(flow, *(flow.time(time) for time in t)), found, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------- ranks


class World:
    """A trainer of one of several processes, as far as methods ask."""

    def __init__(self, rank: int, size: int) -> None:
        self.world_size, self.global_rank, self.global_step, self.training = size, rank, 0, False
        self.strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_unnumbered_batches_are_numbered_as_if_one_process_read_them(size: int):
    seen: list[int] = []
    for number in range(3):
        for rank in range(size):
            method = build(SiD)
            method._trainer = World(rank, size)  # type: ignore[assignment]
            draws = method.draws("train", {"condition": {"label": LABEL}}, number)
            seen += draws.indices
            assert draws.step == number and draws.seed == method.seed
    assert seen == list(range(4 * 3 * size))


def test_ranks_have_noise_of_their_own_and_share_what_all_must_do():
    pieces = []
    for rank in range(2):
        method = build(SiD)
        method._trainer = World(rank, 2)  # type: ignore[assignment]
        pieces.append(method.draws("train", {"condition": {"label": LABEL}}, 5))
    assert not torch.equal(pieces[0].normal("noise", (2,)), pieces[1].normal("noise", (2,)))
    assert pieces[0].shared_integer("step", 1000) == pieces[1].shared_integer("step", 1000)


def test_dropout_differs_between_ranks_and_iterations():
    seeds = set()
    for rank in range(2):
        for iteration in range(3):
            method = build(KD)
            method._trainer = World(rank, 2)  # type: ignore[assignment]
            method.iteration = iteration
            method.parts = lambda *_: []  # type: ignore[method-assign]
            method.update = lambda *_: None  # type: ignore[method-assign]
            method.all_turns = lambda _: ()  # type: ignore[method-assign]
            method.log = lambda *_: None  # type: ignore[method-assign]
            method.training_step({}, 0)
            seeds.add(torch.initial_seed())
            assert method.iteration == iteration + 1
    assert len(seeds) == 6


def test_networks_are_a_function_of_the_seed_alone():
    """What begins at random, in the method and its extras."""
    for cls in METHODS:
        states = []
        for seed in (3, 3):
            torch.manual_seed(torch.seed())
            method = make(cls, seed=seed)
            method.configure_model()
            states.append(dict(method.state_dict()))
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]), cls.__name__


def test_f_distill_weighs_by_the_means_of_all_ranks():
    """The other rank adds a total of 6 in 2 samples to every bin."""
    method = build(FDistill)
    method.configure_model()
    method.ratio = lambda *_: torch.full((4,), 2.0, dtype=torch.float64)  # type: ignore[method-assign]
    asked: list[str] = []

    def reduce(value: Tensor, reduce_op: str) -> Tensor:
        asked.append(reduce_op)
        return value + torch.tensor([6.0, 2.0], dtype=value.dtype).reshape(-1, *[1] * (value.ndim - 1))

    method._trainer = World(0, 2)  # type: ignore[assignment]
    method.trainer.strategy.reduce = reduce
    piece = MicroBatch(torch.randn(4, 2), {"label": LABEL}, Draws(0, range(4), "train"))
    method.before_update("student", [piece])
    bins = torch.bincount(method.bin(piece.score_inputs["critic"].t), minlength=len(method.ratio_means))
    torch.testing.assert_close(method.ratio_means, (2.0 * bins.double() + 6.0) / (bins + 2.0))
    own = method.weight(torch.full((4,), 2.0, dtype=torch.float64), piece.score_inputs["critic"].t).sum()
    torch.testing.assert_close(method.weight_mean, (own + 6.0) / 6.0)
    assert asked == ["sum", "sum"]


def test_optimal_steps_take_the_median_over_all_ranks_and_batches():
    method = make(OptimalSteps)
    method.configure_model()
    world = World(0, 2)
    world.strategy = SimpleNamespace(reduce=lambda value, reduce_op: 3 * value if reduce_op == "sum" else value)
    method._trainer = world  # type: ignore[assignment]
    method.wrapped_optimizer = lambda _: SimpleNamespace(step=lambda: None)  # type: ignore[method-assign]
    for number in range(2):
        piece = MicroBatch(None, {"label": LABEL}, Draws(0, range(4 * number, 4 * number + 4), "train"))
        method.update("student", [piece])
        assert bool((method.counts.sum(1) == 12 * (number + 1)).all())


def test_r1_is_that_of_the_sum_of_all_heads():
    method = build(GDD, layers=["blocks.0", "stem"], r1_gamma=0.5, r1_interval=4)
    method.configure_model()
    piece = MicroBatch(torch.randn(4, 2), {"label": LABEL}, Draws(0, range(4), "train", step=8))
    x0 = piece.x0.clone().requires_grad_()  # type: ignore[union-attr]
    gan = method.extras[0]
    (logits,) = gan.logits(method, (x0, piece.condition, piece.draws.scoped("critic/gan/real")))
    (gradient,) = torch.autograd.grad(logits.sum(), x0)
    penalty = method.losses("discriminator", piece)["r1_exact"]
    torch.testing.assert_close(penalty, 0.5 * 4 * 0.5 * gradient.square().sum(1).mean())
    penalty.backward()
    assert all(any(p.grad is not None and p.grad.any() for p in head.parameters()) for head in gan.heads)


def test_a_view_hands_added_inputs_to_its_network():
    network = build(KD).factories["student"]()  # type: ignore[operator, misc]
    view = OnProcess(network, RectifiedFlow())
    view.add_second_time()
    view.add_guidance_input()
    assert view.takes_second_time and network.takes_second_time and network.guidance_input is not None
    assert view.second_time is None and view.guidance_input is None
