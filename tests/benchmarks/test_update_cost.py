"""The benchmark of updates: its bare passes are those that an update makes, no more and no fewer."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from benchmarks import update_cost
from fastgen.denoisers.networks.dit import DiT
from fastgen.processes import RectifiedFlow


@pytest.mark.parametrize("name", update_cost.METHODS)
def test_updates_make_the_passes_that_they_need(name: str, monkeypatch: pytest.MonkeyPatch):
    """Same networks, same rows, with and without gradient, in the same order."""
    calls: dict[str, list[tuple[int, bool]]] = {"update": [], "passes": []}
    phase = "update"
    original = DiT.predict

    def predict(self: DiT, x_t: torch.Tensor, *args: Any) -> torch.Tensor:
        if len(x_t) > 1:  # heads are built for what one sample shows
            calls[phase].append((len(x_t), torch.is_grad_enabled()))
        return original(self, x_t, *args)

    def watched(method: Any, part: Any) -> Any:
        run = passes(method, part)

        def noted() -> None:
            nonlocal phase
            phase = "passes"
            run()
            phase = "update"

        return noted

    monkeypatch.setattr(DiT, "predict", predict)
    tiny = partial(
        DiT, RectifiedFlow(), "velocity", 3, 32, 8, width=16, depth=1, heads=2, num_classes=update_cost.CLASSES
    )
    monkeypatch.setitem(update_cost.NETWORKS, "DiT", tiny)
    make, passes = update_cost.METHODS[name]
    monkeypatch.setitem(update_cost.METHODS, name, (make, watched))
    row = update_cost.measure("DiT", name, updates=1, batch_size=12)
    assert row["update"] > row["optimizer"] > 0 and row["ratio"] == pytest.approx(row["update"] / row["passes"])
    assert calls["update"] == calls["passes"]
    rows = [count for count, _ in calls["update"]]
    if name == "MeanFlow":
        assert all(0 < count < 12 for count in rows[::2]) and rows[1::2] == [12] * 3
    elif "GAN" in name:
        student, critic = [12] * (4 if "guided" in name else 3), [12, 12, 24]
        assert rows == (student + critic) * 2 + student + (critic if "critic" in name else [])
    else:
        assert rows == {"DMD2": [12, 24, 12, 12] + [12, 12] * 4, "sCM": [12, 12, 12]}[name] * 3
