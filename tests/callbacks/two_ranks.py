"""A run on two gloo processes, started by test_two_ranks.py: python two_ranks.py FOLDER STEPS DEVICES [SECONDS]."""

import sys
import time

import torch
from lightning.pytorch import Callback
from tiny import TinyData, TinyDistiller, TinySuite, trainer

from fastgen.callbacks import EMA, Checkpoint, Evaluate, HalfLifeEMA, Health, Progress, SampleGrid, Throughput
from fastgen.metrics.samples.frechet import FrechetSums


class Suite(TinySuite):
    """A distance that torchmetrics reduces over ranks."""

    def __init__(self):
        super().__init__()
        self.metric = FrechetSums(2)

    def set_reference(self, reference):
        self.metric.set_reference(reference["samples"])

    def reset(self):
        self.metric.reset()

    def update(self, samples, label=None):
        self.metric.update(samples)

    def compute(self):
        return self.metric.compute()


class Slow(Callback):
    def on_train_batch_start(self, trainer, method, batch, batch_idx):
        if trainer.is_global_zero:
            print(f"in batch {batch_idx}", flush=True)
        time.sleep(SECONDS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    FOLDER, STEPS, DEVICES = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    SECONDS = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
    callbacks = [
        Checkpoint(every_n_steps=2, every_minutes=1.0, keep=1, monitor="eval/frechet"),
        Slow(), EMA(rule=HalfLifeEMA(0.05, 0.5)), Evaluate(Suite(), count=9, batch_size=3, every_n_steps=4),
        SampleGrid(4, seeds=4), Health(2), Throughput(2), Progress(),
    ]  # fmt: skip
    strategy = "ddp_find_unused_parameters_true" if DEVICES > 1 else "auto"
    run = trainer(FOLDER, callbacks, max_steps=STEPS, devices=DEVICES, strategy=strategy)
    run.fit(TinyDistiller(critic_every=2), TinyData(batch_size=16 // DEVICES))
