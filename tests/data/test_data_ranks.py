"""The order under Lightning's own data-parallel strategy, which must leave the samplers alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
import torch
from lightning.pytorch import LightningModule, Trainer
from fastgen.data import Digits

torch.set_num_threads(1)


class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        self.seen, self.held_out, self.predicted = [], [], []

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["index"].tolist())
        self.optimizers().step()
        self.iteration += 1

    def validation_step(self, batch, batch_idx):
        self.held_out += batch["index"].tolist()

    def predict_step(self, batch, batch_idx):
        self.predicted += batch["seed"].tolist()
        return batch["seed"]


method, data = Recorder(), Digits(batch_size=7, predict_count=9)
trainer = Trainer(max_steps=3, max_epochs=-1, accelerator="cpu", devices=2, strategy="ddp", logger=False,
                  num_sanity_val_steps=0, enable_checkpointing=False, enable_progress_bar=False)
trainer.fit(method, data)
trainer.validate(method, data)
trainer.predict(method, data)
with open(f"{sys.argv[1]}/{trainer.global_rank}.json", "w") as file:
    json.dump([method.seen, method.held_out, method.predicted, data.state_dict()], file)
trainer.strategy.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.distributed
def test_lightning_leaves_the_shards_alone(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path)]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for rank, (seen, held_out, predicted, state) in enumerate(ranks):
        assert seen == [list(range(14 * i + 7 * rank, 14 * i + 7 * rank + 7)) for i in range(3)]
        assert held_out == list(range(rank, 180, 2))  # half of what is held out; the other half is for testing
        assert predicted == list(range(rank, 9, 2))
        assert state == {"samples_seen": 42}
