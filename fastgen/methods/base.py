"""Distiller: the base of every method. It owns the roles, takes turns and keeps the books."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from fastgen import checks
from fastgen.building import building
from fastgen.conditions import Condition
from fastgen.denoisers.base import Codec, Denoiser
from fastgen.denoisers.from_teacher import CopyOfTeacher, FromTeacher
from fastgen.errors import UserError
from fastgen.extras.base import Extra
from fastgen.methods.batch import MicroBatch, size_of, split
from fastgen.methods.optimizers import make_optimizer, try_out
from fastgen.methods.resume import Configured
from fastgen.methods.state import MethodState
from fastgen.precision import Averages, FrozenInBFloat16, built_to_learn
from fastgen.randomness import Draws, derive_seed
from fastgen.run_facts import RunFacts
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers import RenoiseSampler, Sampler
from fastgen.sampling.solvers import Heun, Solver
from fastgen.schedules import RunLength
from fastgen.sharding import parameters_without_storage, whole

if TYPE_CHECKING:
    from fastgen.methods.score_term import ScoreTerm


def refuse_half_precision(precision: object) -> None:
    """Raise a ``UserError`` for the precisions that several optimizers cannot train in."""
    if str(precision).startswith("16"):
        raise UserError(
            "Precision 16-mixed and 16-true scale or overflow gradients of several optimizers; "
            "set trainer.precision to bf16-mixed, bf16-true or 32-true."
        )


class Distiller(MethodState, LightningModule):
    """Owns the roles of a method and updates them in turns, by manual optimization.

    A method overrides ``<role>_loss(part) -> {name: scalar}`` for each of its roles, and ``turns`` if more than the
    student learns. ``trainer.global_step`` counts student updates, ``self.iteration`` counts batches.

    Args:
        teacher: Builds the frozen teacher; ``None`` for methods without one.
        student: Builds the student, or says how it is made from the frozen teacher (``CopyOfTeacher``, ``LoRA``).
        student_optimizer: Builds the student's optimizer from its parameters; a method's default is its paper's.
        student_lr_scheduler: Builds the student's learning-rate schedule; it steps with every student update.
        sampler: How the student generates, in training and afterwards.
        solver: How the teacher generates, for comparison and where a method learns from its trajectories.
        extras: Further loss terms that any method can carry.
        gradient_clip: Largest gradient norm, one number for all roles or one per role; ``None`` clips nothing.
        micro_batches: Cut every batch into this many pieces and accumulate their gradients; the result is that of the
            whole batch.
        max_bad_steps: Stop after this many updates in a row whose gradient is not finite; such updates are skipped.
        seed: Seed of all random numbers of the training; ``None`` is that of ``--seed_everything``.
    """

    automatic_optimization = False
    samples_with_teacher = False
    """Whether the student's samples need the teacher's weights, which no checkpoint holds."""
    sampling_networks: tuple[str, ...] = ("teacher", "student")
    """Arguments that build networks which samples need; the others are not built from a checkpoint."""
    teacher: Denoiser | None
    student: Denoiser
    codec: Codec
    averages: Averages

    def __init__(
        self,
        teacher: Callable[[], Denoiser] | None = None,
        student: Callable[[], Denoiser] | FromTeacher = CopyOfTeacher(),
        student_optimizer: OptimizerCallable = torch.optim.Adam,
        student_lr_scheduler: LRSchedulerCallable | None = None,
        sampler: Sampler = RenoiseSampler(),
        solver: Solver = Heun(),
        extras: Sequence[Extra] = (),
        gradient_clip: float | dict[str, float] | None = None,
        micro_batches: int = 1,
        max_bad_steps: int = 10,
        seed: int | None = None,
    ) -> None:
        checks.positive(self, gradient_clip=gradient_clip)
        checks.whole(self, micro_batches=micro_batches, max_bad_steps=max_bad_steps)
        checks.seed(self, seed=seed)
        super().__init__()
        if teacher is None and isinstance(student, FromTeacher):
            raise UserError("There is no teacher to make the student from; give model.init_args.teacher.")
        self.factories: dict[str, Callable[[], Denoiser] | FromTeacher | None] = {
            "teacher": teacher,
            "student": student,
        }
        self.optimizer_factories: dict[str, OptimizerCallable] = {"student": student_optimizer}
        self.lr_scheduler_factories: dict[str, LRSchedulerCallable | None] = {"student": student_lr_scheduler}
        self.sampler = sampler
        self.solver = solver
        self.extras = nn.ModuleList(extras)
        self.gradient_clip = gradient_clip
        self.micro_batches = micro_batches
        self.max_bad_steps = max_bad_steps
        self.seed = seed or 0
        self.iteration = 0
        self.bad_steps: dict[str, int] = {}

    # ------------------------------------------------------------------ roles

    def setup(self, stage: str) -> None:
        """Have what learns in fp32 where Lightning would store all networks in bf16."""
        strategy = self.trainer.strategy
        if strategy.precision_plugin.precision == "bf16-true":
            strategy.precision_plugin = FrozenInBFloat16(strategy.root_device.type)

    def configure_model(self) -> None:
        """Build the roles. Called by Lightning on the right device; a second call changes nothing."""
        if hasattr(self, "student"):
            return
        with torch.random.fork_rng(devices=[]):  # what begins at random is a function of the run's seed
            torch.manual_seed(derive_seed(self.seed, "build"))
            self.build_all()

    def configure_for_sampling(self) -> None:
        """Build what samples need: no critic, no extra, nothing that only training knows."""
        self.build_teacher()
        self.build_student()
        self.build_averages()

    def build_all(self) -> None:
        """Build teacher, student, the method's other roles and the extras."""
        self.build_teacher()
        with built_to_learn():
            self.build_student()
            self.build_roles()
            self.built_roles = list(self.trained_modules())
            for extra in self.each_extra():
                extra.build(self)
                self.built_roles += [role for role in extra.trained_modules() if role not in self.built_roles]
                if taken := set(extra.optimizers()) & set(self.optimizer_factories):
                    raise UserError(f"Two parts of the method bring the role '{min(taken)}'; keep one of these extras.")
                self.optimizer_factories |= extra.optimizers()
        self.build_averages()
        self.list_trained_parameters()

    def list_trained_parameters(self) -> None:
        """Note what each role trains; once more if the parameters were replaced, e.g. by their shards."""
        self.trained_parameters = {
            role: [p for module in modules for p in module.parameters() if p.requires_grad]
            for role, modules in self.all_trained_modules().items()
        }

    def build_teacher(self) -> None:
        """The frozen teacher and its codec, all that it takes to sample from it."""
        teacher = cast("Callable[[], Denoiser] | None", self.factories["teacher"])
        self.teacher = self.build(teacher).requires_grad_(False).eval() if teacher else None
        if self.teacher is not None:
            self.codec = self.teacher.make_codec().requires_grad_(False).eval()

    def build_student(self) -> None:
        """The student as it generates, and the codec if it has no teacher."""
        self.student = self.build_role("student")
        if self.teacher is None:
            self.codec = self.student.make_codec().requires_grad_(False).eval()
        self.prepare_student()
        self.sampler.schedule(self.student)  # refuses times that the student's process does not have

    def prepare_student(self) -> None:
        """What a method changes about its student before it learns and before it generates, e.g. a new input."""

    def build_averages(self) -> None:
        """The copies of the student that EMA callbacks asked for."""
        self.averages = Averages({name: self.average_of_student() for name in self.requested_averages})

    def build(self, factory: Callable[[], Denoiser]) -> Denoiser:
        """Build a network and, unless a checkpoint is about to fill it, read its weights."""
        with (
            building(f"A network of {type(self).__name__}"),
            parameters_without_storage() if self.receives_weights else nullcontext(),
        ):
            network = factory()
        if self.read_weights and not self.receives_weights:
            network.load_weights()
        return network

    def build_role(self, role: str) -> Denoiser:
        """The network of a role."""
        return self.build_from(cast("Callable[[], Denoiser] | FromTeacher", self.factories[role]), role)

    def build_from(self, maker: Callable[[], Denoiser] | FromTeacher, role: str) -> Denoiser:
        """A network that learns, from its factory or from the frozen teacher."""
        if not isinstance(maker, FromTeacher):
            return self.build(maker)
        if self.teacher is None:
            raise UserError(f"There is no teacher to make the {role} from; give model.init_args.teacher.")
        return maker.build(self.teacher)

    def average_of_student(self) -> Denoiser:
        """A frozen fp32 copy of the student, to be moved by an EMA callback."""
        return copy.deepcopy(self.student).float().requires_grad_(False).eval()

    def each_extra(self) -> list[Extra]:
        """The extras; those that read what others bring come last, wherever they stand in the config."""
        return sorted(cast(list[Extra], list(self.extras)), key=lambda extra: extra.reads_others)

    def active_extras(self) -> list[Extra]:
        """The extras that have started."""
        return [extra for extra in self.each_extra() if self.global_step >= extra.start]

    def score_term(self) -> ScoreTerm | None:
        """The first term that compares a teacher with a critic; ``None`` if there is none."""
        return next((term for extra in self.each_extra() if (term := extra.score_term()) is not None), None)

    def build_roles(self) -> None:
        """Build what a method owns besides teacher and student, to train it."""

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        """The modules that each role trains, in the order of the optimizers."""
        return {"student": [self.student]}

    def all_trained_modules(self) -> dict[str, list[nn.Module]]:
        """``trained_modules`` with what the extras add."""
        modules = {role: list(own) for role, own in self.trained_modules().items()}
        for extra in self.each_extra():
            for role, more in extra.trained_modules().items():
                modules.setdefault(role, []).extend(more)
        return modules

    def roles(self) -> tuple[str, ...]:
        """Names of the trained roles: the student, the method's others, those of the extras."""
        return tuple(self.all_trained_modules())

    def turns(self, iteration: int) -> tuple[str, ...]:
        """Roles of the method to update in this iteration, in order."""
        return ("student",)

    def all_turns(self, iteration: int) -> tuple[str, ...]:
        """``turns`` with the own roles of the active extras."""
        turns = self.turns(iteration)
        for extra in self.active_extras():
            turns = extra.turns(turns, iteration)
        return turns

    def network(self, role: str) -> Denoiser:
        """A network by role.

        ``student``, ``teacher``, ``average`` (the first EMA, or the student if there is none) or an EMA's name.
        """
        if role in ("student", "teacher") and getattr(self, role) is not None:
            return getattr(self, role)
        if role == "average":
            return cast(Denoiser, next(iter(self.averages.values()), self.student))
        if role in self.averages:
            return cast(Denoiser, self.averages[role])
        known = ["student", *(["teacher"] if self.teacher is not None else []), "average", *self.averages]
        raise UserError(f"There is no network '{role}' here; choose one of: {', '.join(known)}.")

    @contextmanager
    def only(self, role: str) -> Iterator[None]:
        """Inside, one role trains: the others are frozen and in eval mode."""
        modules = self.all_trained_modules()
        for name, parameters in self.trained_parameters.items():
            for module in modules[name]:
                module.train(name == role)
            for parameter in parameters:
                parameter.requires_grad_(name == role)
        try:
            yield
        finally:
            for parameters in self.trained_parameters.values():
                for parameter in parameters:
                    parameter.requires_grad_(True)

    # ------------------------------------------------------------------ training

    def try_out_optimizers(self) -> None:
        """Refuse optimizers and schedules with arguments that make no sense before anything is built."""
        extras = {role: make for extra in self.each_extra() for role, make in extra.optimizers().items()}
        for role, make in (self.optimizer_factories | extras).items():
            try_out(role, make, self.lr_scheduler_factories.get(role))

    def configure_optimizers(self) -> list[dict[str, Any]]:
        """One optimizer per role, in the order of ``roles()``."""
        if isinstance(self.gradient_clip, dict) and (unknown := set(self.gradient_clip) - set(self.roles())):
            raise UserError(f"gradient_clip names '{min(unknown)}', but the roles are: {', '.join(self.roles())}.")
        configured = []
        for role in self.roles():
            optimizer = make_optimizer(role, self.optimizer_factories[role], self.trained_parameters[role])
            entry: dict[str, Any] = {"optimizer": optimizer}
            self.configured[role] = Configured(optimizer)
            if (schedule := self.lr_scheduler_factories.get(role)) is not None:
                with building(f"{role}_lr_scheduler"):
                    entry["lr_scheduler"] = self.configured[role].with_schedule(partial(self.scheduled, schedule))
            configured.append(entry)
        return configured

    def scheduled(self, schedule: LRSchedulerCallable, optimizer: Optimizer) -> Any:
        """Build a schedule, which follows the run if its length is the run's."""
        built = schedule(optimizer)
        if isinstance(built, RunLength) and self._trainer is not None:
            built.follow(lambda: self.student_updates, self.trainer.max_steps)
        return built

    def without_effect(self, run: RunFacts) -> Iterator[str]:
        """Sentences about options that do nothing in a run.

        Raises:
            UserError: For those that would fail later.
        """
        if self.teacher is not None:
            run.refuse_guidance("model.init_args.solver.init_args.guidance", self.solver.guidance, self.teacher)
        yield from ()

    def on_fit_start(self) -> None:
        """Refuse what would train wrongly."""
        super().on_fit_start()
        refuse_half_precision(self.trainer.precision)
        if 0 < self.trainer.max_steps <= self.loaded_updates:
            rank_zero_warn(
                f"The checkpoint has {self.loaded_updates} student updates, and trainer.max_steps is "
                f"{self.trainer.max_steps}: nothing is left to train."
            )
        strategy = self.trainer.strategy
        if (
            isinstance(strategy, DDPStrategy)
            and len(self.roles()) > 1
            and not strategy._ddp_kwargs.get("find_unused_parameters")
        ):
            raise UserError(
                "Plain DDP expects gradients of all roles in every backward pass; set trainer.strategy to "
                "ddp_find_unused_parameters_true."
            )
        # Found out later, an index beyond the last class crashes a GPU.
        given = getattr(getattr(self.trainer, "datamodule", None), "num_classes", None)
        known = self.student.num_classes
        if given and known and given > known:
            raise UserError(
                f"The data have {given} labels, but the network knows {known}; set its num_classes to {given}."
            )

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Update the roles whose turn it is."""
        torch.manual_seed(derive_seed(self.seed, "global", self.global_rank, self.iteration))  # dropout
        parts = self.parts("train", batch, self.iteration, self.micro_batches)
        for role in self.all_turns(self.iteration):
            self.update(role, parts)
        self.iteration += 1
        self.log("step", float(self.trainer.global_step))  # the loggers' x axis counts student updates

    def parts(self, scope: str, batch: Mapping[str, Any], number: int, pieces: int = 1) -> list[MicroBatch]:
        """A rank's batch ``number`` as ``pieces`` micro-batches.

        Raises:
            UserError: If the network cannot take what the data module gives.
        """
        network = type(self.student).__name__
        if "prompt" in batch.get("condition", {}) and not self.student.takes_prompts:
            raise UserError(f"The data module gives prompts, but {network} takes none; give labels or another network.")
        parts = split(batch, pieces, self.draws(scope, batch, number), self.codec)
        x0 = parts[0].x0
        if x0 is not None and tuple(x0.shape[1:]) != self.student.sample_shape:
            raise UserError(
                f"Samples of the data have the shape {tuple(x0.shape[1:])}, but {network} is built for "
                f"{self.student.sample_shape}; make height, width and channels of the two equal."
            )
        return parts

    def draws(self, scope: str, batch: Mapping[str, Any], number: int) -> Draws:
        """The random numbers of a rank's batch ``number``, keyed by the samples' global numbers.

        A data module that gives no ``index`` has its samples numbered as if one process read them all.
        """
        index = batch.get("index")
        if index is None:
            first = (number * self.trainer.world_size + self.global_rank) * size_of(batch)
            index = torch.arange(first, first + size_of(batch))
        return Draws(self.seed, index.tolist(), scope, self.device, number)

    def update(self, role: str, parts: Sequence[MicroBatch]) -> None:
        """One optimizer step of ``role``: zero, backward over the micro-batches, clip, step."""
        optimizer = self.optimizer_of(role)
        optimizer.zero_grad(set_to_none=True)
        for part in parts:
            part.begin_turn(role)
        with self.only(role):
            self.before_update(role, parts)
            for i, part in enumerate(parts):
                with nullcontext() if i == len(parts) - 1 else self.no_gradient_sync():
                    losses = self.losses(role, part)
                    if not losses:
                        raise UserError(
                            f"The {role} has no loss at student update {self.global_step}: {type(self).__name__} has "
                            "none for it, and no extra that has started; give an extra with start: 0."
                        )
                    self.manual_backward(torch.stack(list(losses.values())).sum() / len(parts))
                part.end_turn(role)
                for name, value in losses.items():
                    self.record(f"{role}/{name}", value)
            norm = self.clip(role)
        self.record(f"{role}/grad_norm", norm)
        if self.is_bad(role, norm):
            optimizer.zero_grad(set_to_none=True)
            return
        schedule = self.lr_scheduler_of(role)
        if isinstance(schedule, RunLength):
            schedule.apply()  # the student may have been updated since this role was
        if role == "student":
            self.wrapped_optimizer(role).step()  # counted by trainer.global_step
        else:
            optimizer.step()
        self.updates[role] += 1
        if schedule is not None:
            schedule.step()
        self.after_update(role)
        for extra in self.active_extras():
            extra.after_update(self, role)

    def after_update(self, role: str) -> None:
        """What follows an update of ``role`` that was made, e.g. the motion of a network's own average."""

    def before_update(self, role: str, parts: Sequence[MicroBatch]) -> None:
        """What an update must know of its whole batch before the first piece, e.g. the mean of a weight."""

    def losses(self, role: str, part: MicroBatch) -> dict[str, Tensor]:
        """The named losses of a role: the method's own and those of the active extras."""
        own = role in self.trained_modules()
        losses: dict[str, Tensor] = dict(getattr(self, f"{role}_loss")(part)) if own else {}
        for extra in self.active_extras():
            for name, value in extra.losses(self, role, part).items():
                again = sum(known.partition("#")[0] == name for known in losses)
                losses[f"{name}#{again + 1}" if again else name] = value  # e.g. of a second reward
        return losses

    # ------------------------------------------------------------------ the student's samples

    def rollout(self, part: MicroBatch, role: str, condition: Condition | None = None) -> Rollout:
        """The student's samples that the turn of ``role`` judges: made when first asked for, then remembered.

        Whoever asks first makes them, a method or an extra, so that extras work on any method and in any order. Only
        the student's own turn records their graph.

        Args:
            part: Whose samples.
            role: Whose turn it is.
            condition: What the student is asked for; default what the data module gave.
        """
        if role not in part.rollouts:
            with torch.set_grad_enabled(role == "student" and torch.is_grad_enabled()):
                part.rollouts[role] = self.make_rollout(part, role, part.condition if condition is None else condition)
        return part.rollouts[role]

    def role_condition(self, part: MicroBatch, role: str, condition: Condition) -> Condition:
        """What ``role`` is told where the student is asked for ``condition``; a method may know more for some roles."""
        return condition

    def make_rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        """Samples for the turn of ``role``; a method that knows what they are made from overrides it."""
        draws = part.draws.scoped(self.rollout_scope(role))
        told = self.told(condition, draws)
        made = self.rollout_sampler().rollout(self.student, draws, told, self.noise_dtype())
        return replace(made, condition=condition)

    def rollout_scope(self, role: str) -> str:
        """The scope of the random numbers of such samples."""
        return f"{role}/rollout"

    def rollout_sampler(self) -> Sampler:
        """How the student generates what losses judge: as an extra wants, else as it generates afterwards."""
        wanted = (extra.sampler for extra in self.each_extra() if extra.sampler is not None)
        return next(wanted, self.sampler)

    def clip(self, role: str) -> Tensor:
        """Clip the role's gradient norm if asked to; returns the norm before clipping."""
        limit = self.gradient_clip.get(role) if isinstance(self.gradient_clip, dict) else self.gradient_clip
        parameters = self.trained_parameters[role]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if limit is not None:
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return whole(norm)

    def is_bad(self, role: str, norm: Tensor) -> bool:
        """Whether this update must be skipped because its gradient is not finite.

        Raises:
            UserError: After ``max_bad_steps`` such updates in a row.
        """
        if math.isfinite(norm.item()):
            self.bad_steps[role] = 0
            return False
        self.bad_steps[role] = self.bad_steps.get(role, 0) + 1
        self.bad_steps_total += 1
        if self.bad_steps[role] >= self.max_bad_steps:
            raise UserError(
                f"The gradient of the {role} was not finite in {self.max_bad_steps} updates in a row (student update "
                f"{self.trainer.global_step}); lower its learning rate, set gradient_clip, or resume from an earlier "
                "checkpoint."
            )
        return True

    def no_gradient_sync(self) -> Any:
        """Do not average gradients over ranks yet (more micro-batches follow)."""
        control = getattr(self.trainer.strategy, "_backward_sync_control", None)
        model = self.trainer.strategy.model
        return nullcontext() if control is None else control.no_backward_sync(model, True)

    def wrapped_optimizer(self, role: str) -> Any:
        optimizers = self.optimizers()
        return optimizers[self.roles().index(role)] if isinstance(optimizers, list) else optimizers

    def optimizer_of(self, role: str) -> Optimizer:
        """The role's torch optimizer."""
        return self.wrapped_optimizer(role).optimizer

    def lr_scheduler_of(self, role: str) -> Any:
        """The role's learning-rate schedule, or ``None``."""
        config = self.lr_scheduler_config_of(role)
        return None if config is None else config.scheduler

    def record(self, name: str, value: Tensor) -> None:
        """Log a scalar of the running update; outside training nothing is logged."""
        if self._trainer is not None and self._trainer.training:
            self.log(name, value.detach(), batch_size=1)

    # ------------------------------------------------------------------ evaluation and sampling

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """The losses of every role on held-out samples, logged as ``val/<role>/<name>``."""
        (part,) = self.parts("validation", batch, batch_idx)
        for role in self.roles():
            for name, value in self.losses(role, part).items():
                self.log(f"val/{role}/{name}", value, batch_size=size_of(batch), sync_dist=True, on_epoch=True)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """As validation."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Give validation losses the same x axis as training losses."""
        self.log("step", float(self.student_updates))

    def on_test_epoch_end(self) -> None:
        """As validation."""
        self.on_validation_epoch_end()

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Samples for a batch ``{"seed": (B,), "condition": {...}}``."""
        return self.sample(batch["seed"].tolist(), batch["condition"])

    @torch.no_grad()
    def sample(
        self, seeds: Sequence[int], condition: Mapping[str, Any], steps: int | None = None, role: str = "average"
    ) -> Tensor:
        """The one door to samples.

        A sample is a function of its seed, its condition and the weights: not of the batch or the number of ranks.

        Args:
            seeds: One per sample.
            condition: As the data module gives it, e.g. ``{"label": (B,)}`` or ``{"prompt": [...]}``.
            steps: Network calls of the student or solver steps of the teacher; default as trained or configured.
            role: See :meth:`network`.

        Returns:
            Images (B, C, H, W), nominally in [-1, 1], or points (B, D); fp32.
        """
        with self.inference_precision():
            x0 = self.latents(seeds, self.encode_condition(condition), steps, role)
            return self.codec.decode(x0).float()

    def encode_condition(self, condition: Mapping[str, Any]) -> Condition:
        """A data module's condition on this device, as the denoiser takes it."""
        return self.codec.encode_condition(
            {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in condition.items()}
        )

    @torch.no_grad()
    def latents(
        self, seeds: Sequence[int], condition: Condition, steps: int | None = None, role: str = "average"
    ) -> Tensor:
        """What :meth:`sample` decodes: x0 (B, ...) in the denoiser's space, for an encoded condition."""
        if steps is not None and steps < 1:
            raise UserError(f"A sample needs at least one step, got {steps}.")
        denoiser = self.network(role)
        draws = Draws(0, list(seeds), "sample", self.device)
        modes = [(module, module.training) for module in denoiser.modules()]
        denoiser.eval()
        try:
            if role == "teacher":
                noise = denoiser.process.prior(draws, denoiser.sample_shape)
                return self.solver.solve(denoiser, noise, condition, steps)
            return self.generate(denoiser, draws, condition, steps)
        finally:
            for module, mode in modes:
                module.training = mode

    def generate(self, denoiser: Denoiser, draws: Draws, condition: Condition, steps: int | None) -> Tensor:
        """x0 (B, ...) from the student or an average of it."""
        return self.sampler.sample(denoiser, draws, self.told(condition, draws), steps)

    def told(self, condition: Condition, draws: Draws) -> Condition:
        """What the student is told when it generates; a method whose student has inputs of its own adds them."""
        return condition

    def evaluations(self, role: str, steps: int | None = None) -> int:
        """Network calls per sample (NFE) of :meth:`sample`."""
        if role == "teacher":
            return self.solver.evaluations(steps or self.solver.steps)
        return self.sampler.evaluations(steps)

    def noise_dtype(self) -> torch.dtype:
        """The dtype of noise in training: fp32, or fp64 for fp64 networks."""
        return torch.promote_types(next(self.student.parameters()).dtype, torch.float32)

    def inference_precision(self) -> Any:
        """The trainer's precision, if there is one."""
        return self._trainer.precision_plugin.forward_context() if self._trainer is not None else nullcontext()
