"""What a method writes into a checkpoint and how it comes back."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from fastgen.checkpoints.restoring import restoring
from fastgen.checkpoints.seals import FORMAT, FROZEN, OWN, refuse_damaged, refuse_incomplete, refuse_other_formats, seal
from fastgen.distiller.resume import Configured, difference, differences, refuse_shapes
from fastgen.distiller.start import start_from
from fastgen.errors import UserError
from fastgen.fitting import misfits, refuse_diverged


class MethodState(LightningModule):
    """The bookkeeping half of a Distiller: counters, averages, recipe, and strict loading.

    Attributes:
        recipe: The ``class_path`` / ``init_args`` that built this method, set by the command line. It travels in the
            checkpoint, so that a sample command needs no config.
        settings: What else the config says of the training (data, callbacks, ...), set by the command line, so that a
            resume can tell what has changed.
        init_from: Checkpoint whose weights a new run starts from.
        read_weights: Whether ``configure_model`` reads weight files; off when a checkpoint follows.
        receives_weights: Whether another process reads the weights and sends them, so that networks are built without
            any; set by a strategy.
        requested_averages: Names of the EMA copies that ``configure_model`` builds.
        iteration: Batches done.
        updates: Optimizer steps of each role.
        configured: How the config built each role's optimizer and schedule.
        bad_steps_total: Updates skipped because their gradient was not finite.
        loaded_updates: Student updates behind the loaded checkpoint.
    """

    recipe: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    init_from: str | None = None
    read_weights: bool = True
    receives_weights: bool = False
    iteration: int
    bad_steps_total: int = 0
    loaded_updates: int = 0

    @property
    def student_updates(self) -> int:
        """Student updates behind the current weights, also outside training, where the trainer does not know them."""
        return max(self.loaded_updates, self._trainer.global_step if self._trainer is not None else 0)

    def __init__(self) -> None:
        super().__init__()
        self.requested_averages: list[str] = []
        self.updates: Counter[str] = Counter()
        self.configured: dict[str, Configured] = {}
        self._resumed: dict[str, Any] = {}

    def request_average(self, name: str) -> None:
        """Ask ``configure_model`` for an EMA copy of the student; called by EMA callbacks in ``setup``.

        Raises:
            UserError: If two callbacks ask for one name or the name means something else.
        """
        if name in ("student", "teacher", "average"):
            raise UserError(f"An EMA cannot be called '{name}'; choose another name, e.g. 'ema'.")
        if name not in self.requested_averages:
            self.requested_averages.append(name)

    # ------------------------------------------------------------------ what a method gives

    def roles(self) -> tuple[str, ...]:
        """Names of the trained roles, in the order of their optimizers."""
        raise NotImplementedError

    def optimizer_of(self, role: str) -> Optimizer:
        """The role's torch optimizer."""
        raise NotImplementedError

    # ------------------------------------------------------------------ saving

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop the frozen parts; add counters, recipe and hyper-parameters as plain values; seal it all."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith(FROZEN)}
        data = self._data_with_a_position()
        checkpoint[OWN] = {
            "format": FORMAT,
            "method": f"{type(self).__module__}.{type(self).__qualname__}",
            "recipe": self.recipe,
            "settings": self.settings,
            "iteration": self.iteration,
            "bad_steps_total": self.bad_steps_total,
            "averages": list(self.requested_averages),
            "roles": list(self.roles()),
            "updates": dict(self.updates),
            "configured": {role: entry.for_checkpoint() for role, entry in self.configured.items()},
            "callbacks": list(checkpoint.get("callbacks", ())),
            "data": data,
        }
        if self.trainer.is_global_zero:  # the others write nothing
            seal(checkpoint)

    def _data_with_a_position(self) -> str | None:
        """The name under which Lightning keeps the data module's state, if there is one."""
        data = getattr(self.trainer, "datamodule", None)
        return type(data).__qualname__ if data is not None and data.state_dict() else None

    # ------------------------------------------------------------------ loading

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the counters, after a look at whether everything is there and undamaged.

        Raises:
            UserError: If the checkpoint was written by another method, is not whole, or its run had diverged.
        """
        trainer = self._trainer
        path = str(getattr(trainer, "ckpt_path", None) or "The checkpoint")
        refuse_other_formats(checkpoint, path)
        saved = checkpoint[OWN]
        own = f"{type(self).__module__}.{type(self).__qualname__}"
        if public(saved["method"]) != public(own):
            raise UserError(
                f"The checkpoint belongs to {saved['method']}, not to {own}; give the config it was trained with."
            )
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
            refuse_incomplete(checkpoint, path, self.roles(), self._data_with_a_position())
            refuse_damaged(checkpoint, path)
            # The schedules are restored by on_train_start, when the optimizers are known to be.
            self._resumed = {**saved, "lr_schedulers": checkpoint["lr_schedulers"]}
            checkpoint["lr_schedulers"] = []
            self.refuse_other_optimizers()
        elif trainer is not None:
            refuse_damaged(checkpoint, path, ["state_dict"])
        if trainer is not None:
            refuse_diverged(self, checkpoint["state_dict"], path)
        self.iteration = saved["iteration"]
        self.updates = Counter(saved.get("updates", {}))
        self.bad_steps_total = saved["bad_steps_total"]
        self.loaded_updates = checkpoint["global_step"]

    def on_fit_start(self) -> None:
        """Refuse to give a state to optimizers that it does not fit; start from given weights."""
        self.refuse_other_optimizers()
        if self.init_from is not None and not self.trainer.ckpt_path:
            start_from(self, self.init_from)

    def refuse_other_optimizers(self) -> None:
        """Raise a ``UserError`` if the config asks for other optimizers than a loaded checkpoint has states of."""
        saved = self._resumed.get("configured", {})
        for role, entry in self.configured.items():
            if role in saved:
                entry.refuse_another_optimizer(role, saved[role])

    def on_train_start(self) -> None:
        """After a resume: the config's hyper-parameters on the checkpoint's state, and what differs in a line each."""
        if not self._resumed:
            return
        saved, self._resumed = self._resumed, {}
        entries: dict[str, Any] = saved.get("configured", {})
        known = [role for role, entry in entries.items() if entry["schedule"] is not None]
        if not entries:  # format 1 has the states in the order of the roles
            known = [role for role in self.roles() if self.configured[role].schedule is not None]
        states = dict(zip(known, saved["lr_schedulers"], strict=False))
        said: list[str] = []
        with restoring("these optimizers and schedules"):
            for role, entry in self.configured.items():
                refuse_shapes(entry.optimizer)
                config = self.lr_scheduler_config_of(role)
                schedule = entry.restore(
                    None if config is None else config.scheduler,
                    entries.get(role),
                    states.get(role),
                    self.updates[role],
                )
                if config is not None:
                    config.scheduler = schedule
                if role in entries:
                    said += entry.differences(role, entries[role])
        if saved.get("recipe") and self.recipe:
            said += differences(self.recipe, saved["recipe"], "model")
        if saved.get("settings") and self.settings:
            for place in self.settings:
                said += differences(self.settings[place], saved["settings"].get(place), place)
        data = self._data_with_a_position()
        if saved.get("data", data) != data:
            said.append(difference("data", f"{data} from its beginning", saved["data"]))
        if self.trainer.is_global_zero:
            for line in said:
                print(f"fastgen: resumed with {line}", file=sys.stderr)

    def lr_scheduler_config_of(self, role: str) -> Any:
        """Where the trainer keeps the role's learning-rate schedule, or ``None``."""
        optimizer = self.optimizer_of(role)
        for config in self.trainer.strategy.lr_scheduler_configs:
            if config.scheduler.optimizer is optimizer:
                return config
        return None

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Load everything that was trained; the frozen parts keep what their own files gave them.

        Raises:
            UserError: If names, shapes or kinds of numbers differ.
        """
        own = {k: v for k, v in self.state_dict().items() if not k.startswith(FROZEN)}
        given = {k: v for k, v in state_dict.items() if not k.startswith(FROZEN)}
        if wrong := misfits(own, given):
            raise UserError(
                f"The checkpoint does not fit this model: {len(wrong)} tensors differ in name, shape or kind of "
                f"number, first '{wrong[0]}'; use the config (and the EMA callbacks) it was trained with."
            )
        return super().load_state_dict(given, strict=False, assign=assign)

    def load_generator(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load what was built of a checkpoint that holds more; its parts that are not there are left out.

        Raises:
            UserError: If names or shapes differ within a part.
        """
        parts = {name.partition(".")[0] for name in self.state_dict()}
        self.load_state_dict({k: v for k, v in state_dict.items() if k.partition(".")[0] in parts})


def public(name: str) -> str:
    """A class by the path that does not change when its file moves: one of fastgen's has one of a name."""
    return f"fastgen.{name.rpartition('.')[2]}" if name.startswith("fastgen.") else name
