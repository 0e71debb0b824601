"""The endless order, resume, shards, and errors from workers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from fastgen.data.base import DistillationData
from fastgen.data.order import InfiniteSampler, ShardSampler
from fastgen.data.sources import Batch, BatchSource, TensorSource
from fastgen.errors import UserError


class Numbers(DistillationData):
    """Sample i is the number i; with labels i % 3."""

    def __init__(self, size: int = 10, broken: int | None = None, **kwargs: int) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.broken = broken

    def make_sources(self) -> tuple[BatchSource, BatchSource]:
        x0 = torch.arange(self.size, dtype=torch.float32)
        source = TensorSource(x0, torch.arange(self.size) % 3)
        return (source if self.broken is None else Broken(self.size, self.broken)), TensorSource(x0[:7])

    @property
    def num_classes(self) -> int:
        return 3


class Broken(BatchSource):
    def __init__(self, size: int, broken: int) -> None:
        self.size = size
        self.broken = broken

    def batch(self, indices: Sequence[int]) -> Batch:
        if self.broken in indices:
            raise UserError(f"Sample {self.broken} is broken; mend it.")
        return {"x0": torch.zeros(len(indices)), "condition": {}}


def first(loader: object, count: int) -> list[Batch]:
    return list(itertools.islice(iter(loader), count))


def as_rank(data: DistillationData, rank: int, world_size: int, iteration: int = 0) -> DistillationData:
    method = SimpleNamespace(iteration=torch.tensor(iteration))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, lightning_module=method)
    return data


def test_every_epoch_is_another_permutation() -> None:
    order = [index for _, index in itertools.islice(iter(InfiniteSampler(10, 4, seed=0)), 40)]
    epochs = [order[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert order != [index for _, index in itertools.islice(iter(InfiniteSampler(10, 4, seed=1)), 40)]


def test_global_sample_n_goes_to_rank_n_over_b_modulo_world() -> None:
    alone = list(itertools.islice(iter(InfiniteSampler(10, 6, seed=0)), 48))
    for rank in range(2):
        own = list(itertools.islice(iter(InfiniteSampler(10, 3, seed=0, rank=rank, world_size=2)), 24))
        assert own == [(n, index) for n, index in alone if (n // 3) % 2 == rank]
    later = list(itertools.islice(iter(InfiniteSampler(10, 3, 0, start=12, rank=1, world_size=2)), 6))
    assert later == [(n, index) for n, index in alone if n >= 12 and (n // 3) % 2 == 1][:6]


def test_samples_in_a_row_share_an_index_across_ranks() -> None:
    """Groups of four and batches of three: numbers go on, and a resumed order continues within a group."""
    once = [index for _, index in itertools.islice(iter(InfiniteSampler(10, 6, seed=0)), 12)]
    alone = list(itertools.islice(iter(InfiniteSampler(10, 6, seed=0, repeats=4)), 48))
    assert alone == [(n, once[n // 4]) for n in range(48)]
    own = [iter(InfiniteSampler(10, 3, 0, start=6, rank=rank, world_size=2, repeats=4)) for rank in range(2)]
    both = sorted(pair for order in own for pair in itertools.islice(order, 21))
    assert both == alone[6:]
    data = as_rank(Numbers(batch_size=6), 0, 1)
    data.trainer.lightning_module.samples_per_condition = 3
    first, second = data.train_dataloader().sampler.index(4), data.train_dataloader().sampler.index(5)
    assert first == second != data.train_dataloader().sampler.index(6)


def test_the_endless_order_has_no_length_and_large_numbers_are_cheap() -> None:
    with pytest.raises(TypeError):
        len(InfiniteSampler(10, 4, 0))
    assert next(iter(InfiniteSampler(None, 4, 0, start=10**12))) == (10**12, 10**12)


@pytest.mark.parametrize(("size", "world_size"), [(7, 2), (2, 3), (12, 4)])
def test_shards_hold_every_index_once(size: int, world_size: int) -> None:
    shards = [list(ShardSampler(size, rank, world_size)) for rank in range(world_size)]
    assert sorted(i for shard in shards for i, _ in shard) == list(range(size))
    assert [len(shard) for shard in shards] == [len(ShardSampler(size, r, world_size)) for r in range(world_size)]


def test_batches_and_their_index() -> None:
    data = Numbers(batch_size=4)
    batch = first(data.train_dataloader(), 4)[3]
    assert batch["index"].tolist() == [12, 13, 14, 15]
    assert batch["condition"]["label"].tolist() == [int(x) % 3 for x in batch["x0"]]
    held_out = list(data.val_dataloader())
    assert torch.cat([b["x0"] for b in held_out]).tolist() == list(range(7))
    predict = list(Numbers(predict_count=5, batch_size=2).predict_dataloader())
    assert [b["seed"].tolist() for b in predict] == [[0, 1], [2, 3], [4]]
    assert predict[1]["condition"]["label"].tolist() == [2, 0]


def test_worker_processes_change_nothing() -> None:
    plain = first(Numbers(batch_size=3).train_dataloader(), 9)
    for a, b in zip(plain, first(Numbers(batch_size=3, num_workers=2).train_dataloader(), 9), strict=True):
        assert torch.equal(a["x0"], b["x0"]) and torch.equal(a["index"], b["index"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_continues_the_order_on_every_rank(num_workers: int) -> None:
    for rank in range(2):
        straight = first(as_rank(Numbers(batch_size=3), rank, 2).train_dataloader(), 9)
        killed = as_rank(Numbers(batch_size=3, num_workers=num_workers), rank, 2)
        first(killed.train_dataloader(), 5)
        killed.trainer.lightning_module.iteration.fill_(5)
        assert killed.state_dict() == {"samples_seen": 30}
        resumed = as_rank(Numbers(batch_size=3, num_workers=num_workers), rank, 2, iteration=5)
        resumed.load_state_dict(killed.state_dict())
        assert resumed.state_dict() == {"samples_seen": 30}
        for a, b in zip(straight[5:], first(resumed.train_dataloader(), 4), strict=True):
            assert torch.equal(a["x0"], b["x0"]) and torch.equal(a["index"], b["index"])


def test_resume_with_another_batch_size_loses_and_repeats_nothing() -> None:
    resumed = as_rank(Numbers(batch_size=5), 0, 1, iteration=4)
    resumed.load_state_dict({"samples_seen": 12})  # four batches of three
    batches = first(resumed.train_dataloader(), 2)
    assert batches[0]["index"].tolist() == [12, 13, 14, 15, 16]
    resumed.trainer.lightning_module.iteration.fill_(6)
    assert resumed.state_dict() == {"samples_seen": 22}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_a_worker_is_the_one_sentence(num_workers: int) -> None:
    with pytest.raises(UserError) as caught:
        first(Numbers(broken=3, batch_size=5, num_workers=num_workers).train_dataloader(), 4)
    assert str(caught.value) == "Sample 3 is broken; mend it."


def test_batch_size_is_checked() -> None:
    with pytest.raises(UserError, match="batch_size"):
        Numbers(batch_size=0)


class Recorder(LightningModule):
    """Counts batches as a method does and remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        self.seen: list[list[int]] = []
        self.predicted: list[int] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen.append(batch["x0"].int().tolist())
        self.optimizers().step()  # global_step counts optimizer steps
        self.iteration += 1

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        self.predicted += batch["seed"].tolist()


def trainer(steps: int) -> Trainer:
    return Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def test_with_the_trainer(tmp_path: object) -> None:
    straight = Recorder()
    trainer(9).fit(straight, Numbers(batch_size=3))
    killed, engine = Recorder(), trainer(4)
    engine.fit(killed, Numbers(batch_size=3))
    engine.save_checkpoint(f"{tmp_path}/a.ckpt")
    resumed = Recorder()
    trainer(9).fit(resumed, Numbers(batch_size=3, num_workers=2), ckpt_path=f"{tmp_path}/a.ckpt")
    assert killed.seen + resumed.seen == straight.seen
    assert len(straight.seen) == 9
    trainer(1).predict(straight, Numbers(batch_size=4, predict_count=6))
    assert straight.predicted == list(range(6))
