import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # tiny.py
torch.set_num_threads(1)

from tiny import Clock  # noqa: E402  found only now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the callbacks."""
    clock = Clock()
    for module in ("checkpoint", "evaluation.measurement", "clock"):
        monkeypatch.setattr(f"fastgen.callbacks.{module}.time", clock)
    return clock
