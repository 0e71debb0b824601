"""Distiller: the base of every method. It owns the roles, takes turns and keeps the books."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from fastgen import checks
from fastgen.configuration.components import Seed, seed_of
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher, FromTeacher
from fastgen.distiller.extra import Extra
from fastgen.distiller.generation import Generation
from fastgen.distiller.run_facts import RunFacts
from fastgen.errors import UserError
from fastgen.precision import FrozenInBFloat16, refuse_half_precision
from fastgen.randomness import derive_seed
from fastgen.sampling.samplers import RenoiseSampler, Sampler
from fastgen.sampling.solvers import Heun, Solver


class Distiller(Generation):
    """Owns the roles of a method and updates them in turns, by manual optimization.

    ``trainer.global_step`` counts student updates, ``self.iteration`` counts batches. What a method overrides:

    - ``<role>_loss(part) -> {name: scalar}``: the losses of each of its roles; all that a method must have;
    - ``build_roles``, ``trained_modules``, ``turns``: networks beside teacher and student, who trains them, and when;
    - ``prepare_student``: what changes about the student before it learns and before it generates;
    - ``make_rollout``, ``rollout_sampler``: how the samples are made that losses and extras judge;
    - ``student_condition``, ``role_condition``: what the student is told when it generates, and what roles know;
    - ``before_update``, ``after_update``: what an update needs of its whole batch, and what follows it;
    - ``samples_per_condition``: how large the groups are that are judged together, see ``group_advantages``;
    - ``generate``, ``evaluations``: how the student generates, and in how many calls;
    - ``without_effect``: options that do nothing in a run.

    Roles, networks, rollouts, optimization, updates and generation are a file each in this folder.

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
        seed: Seed of all random numbers of the training; ``seed_everything`` is that of the run.
    """

    samples_with_teacher = False
    """Whether the student's samples need the teacher's weights, which no checkpoint holds."""
    sampling_networks: tuple[str, ...] = ("teacher", "student")
    """Arguments that build networks which samples need; the others are not built from a checkpoint."""

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
        seed: Seed = "seed_everything",
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
        self.seed = seed_of(seed)
        self.iteration = 0
        self.bad_steps: dict[str, int] = {}

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
