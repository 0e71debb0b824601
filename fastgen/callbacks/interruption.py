"""SIGTERM and Ctrl-C: finish the running batch first."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Trainer

from fastgen.callbacks.trainer_access import callbacks_of

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Remembers a signal to stop instead of breaking into the running batch.

    A second Ctrl-C breaks at once. Lightning's own SIGTERM handler broadcasts over ranks in the middle of whatever
    they are doing; this one only sets a flag, and the ranks agree on it between batches (:meth:`agreed`).
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Start listening; only the main thread may."""
        self.received = None
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._remember) for number in SIGNALS}

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def agreed(self, trainer: Trainer) -> int | None:
        """The signal that any rank received, the same on all ranks; every rank must ask."""
        if not trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            return None
        return int(trainer.strategy.broadcast(self.received or signal.SIGTERM))


def stop_requested(trainer: Trainer) -> bool:
    """Whether the run was told to stop, so that long work beside training should be left. Every rank must ask."""
    signals = [getattr(callback, "stop_signals", None) for callback in callbacks_of(trainer)]
    received = trainer.received_sigterm or any(s is not None and s.received is not None for s in signals)
    return bool(trainer.strategy.reduce_boolean_decision(received, all=False))
