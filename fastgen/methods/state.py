"""What a method writes into a checkpoint and how it comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from fastgen.errors import UserError

FROZEN = ("teacher.", "codec.")
"""Prefixes of what was not trained and is therefore never saved."""

FORMAT = 1


class MethodState(LightningModule):
    """The bookkeeping half of a Distiller: counters, averages, recipe, and strict loading.

    Attributes:
        recipe: The ``class_path`` / ``init_args`` that built this method, set by the command line. It travels in the
            checkpoint, so that a sample command needs no config.
        read_weights: Whether ``configure_model`` reads weight files; off when a checkpoint follows.
        receives_weights: Whether another process reads the weights and sends them, so that networks are built without
            any; set by a strategy.
        requested_averages: Names of the EMA copies that ``configure_model`` builds.
        iteration: Batches done.
        bad_steps_total: Updates skipped because their gradient was not finite.
        loaded_updates: Student updates behind the loaded checkpoint.
    """

    recipe: dict[str, Any] | None = None
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

    def request_average(self, name: str) -> None:
        """Ask ``configure_model`` for an EMA copy of the student; called by EMA callbacks in ``setup``.

        Raises:
            UserError: If two callbacks ask for one name or the name means something else.
        """
        if name in ("student", "teacher", "average"):
            raise UserError(f"An EMA cannot be called '{name}'; choose another name, e.g. 'ema'.")
        if name not in self.requested_averages:
            self.requested_averages.append(name)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop the frozen parts; add counters and recipe as plain values."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith(FROZEN)}
        checkpoint["fastgen"] = {
            "format": FORMAT,
            "method": f"{type(self).__module__}.{type(self).__qualname__}",
            "recipe": self.recipe,
            "iteration": self.iteration,
            "bad_steps_total": self.bad_steps_total,
            "averages": list(self.requested_averages),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the counters.

        Raises:
            UserError: If the checkpoint was written by another method.
        """
        saved = checkpoint.get("fastgen")
        own = f"{type(self).__module__}.{type(self).__qualname__}"
        if saved is None:
            raise UserError("The checkpoint was not written by fastgen; give one that 'fastgen fit' wrote.")
        if saved["method"] != own:
            raise UserError(
                f"The checkpoint belongs to {saved['method']}, not to {own}; give the config it was trained with."
            )
        self.iteration = saved["iteration"]
        self.bad_steps_total = saved["bad_steps_total"]
        self.loaded_updates = checkpoint["global_step"]

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Load everything that was trained; the frozen parts keep what their own files gave them.

        Raises:
            UserError: If names or shapes differ.
        """
        own = {k: v for k, v in self.state_dict().items() if not k.startswith(FROZEN)}
        given = {k: v for k, v in state_dict.items() if not k.startswith(FROZEN)}
        wrong = sorted(set(own) ^ set(given)) or sorted(k for k in own if own[k].shape != given[k].shape)
        if wrong:
            raise UserError(
                f"The checkpoint does not fit this model: {len(wrong)} tensors differ in name or shape, first "
                f"'{wrong[0]}'; use the config (and the EMA callbacks) it was trained with."
            )
        return super().load_state_dict(given, strict=False, assign=assign)
