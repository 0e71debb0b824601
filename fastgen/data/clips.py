"""Endless clips of a linear-Gaussian process, with what drives their motion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.data.base import Batch, BatchSource
from fastgen.data.mixture import Mixture, _LawSource
from fastgen.randomness import Draws, derive_seed


def tones(draws: Draws, frames: int, count: int) -> Tensor:
    """``sin(w f + p)`` of drawn frequencies w in [0.3, 1.2] and phases, (B, F, K): tones, tracks, presses of keys."""
    place = torch.arange(frames, dtype=torch.float64)[None, :, None]
    pitch = torch.stack([0.3 + 0.9 * draws.uniform(f"pitch{k}") for k in range(count)], 1)[:, None]
    phase = torch.stack([2.0 * math.pi * draws.uniform(f"phase{k}") for k in range(count)], 1)[:, None]
    return torch.sin(pitch * place + phase).float()


class _ClipSource(_LawSource):
    """As of a law, with the drive of sample n, a pure function of the stream and n."""

    def batch(self, indices: Sequence[int]) -> Batch:
        batch = super().batch(indices)
        drive = tones(Draws(self.seed, list(indices)), self.law.frames, self.law.drive)
        batch["condition"] = {**batch["condition"], "drive": drive}
        if "x0" in batch:
            response = self.law.response(drive.double()).reshape(batch["x0"].shape)
            batch["x0"] = (batch["x0"].double() + response).float()
        return batch


class DrivenClips(Mixture):
    """Clips of a ``LinearGaussianClips`` whose motion is driven by tones, in the condition ``drive`` (B, F, K).

    Args:
        distribution: The law, with a ``drive``; its labels are drawn uniformly.
        with_x0: As in :class:`Mixture`, also what follows.
        held_out_count: As there.
        reference_count: As there.
        batch_size: As there.
        seed: As there.
        num_workers: As there.
        predict_count: As there.
    """

    def make_sources(self) -> tuple[BatchSource, ...]:
        def stream(name: str, seed: int, size: int | None) -> _ClipSource:
            return _ClipSource(self.law, derive_seed(seed, name), size, self.with_x0)

        held_out = (stream(name, 0, self.held_out_count) for name in ("held out", "test"))
        return stream("train", self.seed, None), *held_out

    def evaluation_conditions(self, indices: Sequence[int]) -> dict[str, Any]:
        draws = Draws(derive_seed("evaluation"), list(indices))
        return {**super().evaluation_conditions(indices), "drive": tones(draws, self.law.frames, self.law.drive)}

    def reference(self) -> dict[str, Tensor]:
        condition = self.evaluation_conditions(range(self.reference_count))
        source = _ClipSource(self.law, derive_seed("reference"), None, True)
        return {"samples": source.batch(range(self.reference_count))["x0"], **condition}
