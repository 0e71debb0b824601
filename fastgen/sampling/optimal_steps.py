"""The search of optimal steps: which few times of a fine grid a sampler should call its network at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass
class Cell:
    """The best path of some steps that ends at one time, for every sample of a batch.

    Attributes:
        state: Where it ends, (B, ...).
        calls: Indices of the times of its calls, (B, steps so far), int64.
        error: Mean squared distance to the teacher's state at that time, (B,).
    """

    state: Tensor
    calls: Tensor
    error: Tensor

    def take_better(self, other: Cell) -> None:
        """Replace the samples that ``other`` serves better."""
        better = other.error < self.error
        self.state = torch.where(better.reshape(-1, *[1] * (self.state.ndim - 1)), other.state, self.state)
        self.calls = torch.where(better[:, None], other.calls, self.calls)
        self.error = torch.where(better, other.error, self.error)


def optimal_steps(
    states: Sequence[Tensor],
    predict: Callable[[Tensor, int], T],
    move: Callable[[T, int], Tensor],
    steps: int,
    starts: Callable[[int], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Dynamic programming over a teacher's trajectory (Pei et al. 2025, arXiv 2503.21774, algorithm 1).

    Cell (k, j) holds the best k-step path that ends at time j, with its own state: one step from the best paths of
    k - 1 steps, compared with the teacher's state at j. The search is exact for one and two steps and greedy beyond,
    since a path is judged where it ends and not where it may lead.

    Args:
        states: The teacher's states at times 0 (noise) to M (data), each (B, ...).
        predict: What the network says about a state (B, ...) at time i; called ``(steps - 1) M`` times at most.
        move: Where a prediction leads, at time j.
        steps: Number of steps, 1 to M.
        starts: What sampling begins with if its first call is told time i, (B, ...); the first call is then free, as in
            the official code, and ``None`` makes it at time 0.

    Returns:
        Indices (B, steps) of the times of the calls, increasing (from 0 unless the first is free), and the errors (B,)
        at the end.
    """
    last = len(states) - 1
    if not 1 <= steps <= last:
        raise ValueError(f"{steps} steps cannot be chosen from {last}")
    count, device = len(states[0]), states[0].device
    nothing = torch.zeros(count, 0, dtype=torch.int64, device=device)
    first = {0: states[0]} if starts is None else {i: starts(i) for i in range(last - steps + 1)}
    cells = {i: Cell(x, nothing, torch.zeros(count, device=device)) for i, x in first.items()}
    for step in range(1, steps + 1):
        # Later steps need at least one time each, and the last step ends at the data.
        ends = range(step, last - (steps - step) + 1) if step < steps else range(last, last + 1)
        reached: dict[int, Cell] = {}
        for start, cell in cells.items():
            prediction = predict(cell.state, start)
            calls = torch.cat([cell.calls, torch.full((count, 1), start, device=device)], dim=1)
            for end in ends:
                if end <= start:
                    continue
                state = move(prediction, end)
                found = Cell(state, calls, (state - states[end]).square().flatten(1).mean(1))
                if end in reached:
                    reached[end].take_better(found)
                else:
                    reached[end] = found
        cells = reached
    return cells[last].calls, cells[last].error


def lower_median(counts: Tensor) -> Tensor:
    """The lower median of each row of a histogram ``counts`` (K, M): an index that occurs, (K,).

    Rows of increasing index sequences have increasing lower medians, so the result is a grid again.
    """
    cumulative = counts.cumsum(1)
    return (2 * cumulative >= cumulative[:, -1:]).int().argmax(1)
