"""Batches of exact laws."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastgen.data.mixture import BLOCK, Mixture
from fastgen.denoisers.exact.mixtures import ImageMixture, RingMixture
from fastgen.denoisers.networks.mlp import MLP
from fastgen.errors import UserError
from fastgen.processes import EDM


def module(num_classes: int = 0, **kwargs: object) -> Mixture:
    return Mixture(lambda: RingMixture(EDM(), radius=1.0, std=0.1, num_classes=num_classes), **kwargs)


def batches(data: Mixture, count: int) -> list[dict]:
    return list(itertools.islice(iter(data.train_dataloader()), count))


def test_data_free_batches() -> None:
    (batch,) = batches(module(batch_size=5), 1)
    assert batch["condition"] == {} and "x0" not in batch
    assert batch["index"].tolist() == [0, 1, 2, 3, 4]
    (batch,) = batches(module(num_classes=4, batch_size=400), 1)
    assert "x0" not in batch
    assert (batch["condition"]["label"].bincount(minlength=4) > 60).all()


def test_samples_do_not_depend_on_batches_or_workers() -> None:
    large = batches(module(4, with_x0=True, batch_size=BLOCK + 500), 2)
    small = batches(module(4, with_x0=True, batch_size=254, num_workers=2), 12)
    for name in ("x0", "label"):
        a, b = (
            torch.cat([part[name] if name == "x0" else part["condition"][name] for part in parts])
            for parts in (large, small)
        )
        assert torch.equal(a, b[: len(a)])
    other = batches(module(4, with_x0=True, batch_size=10, seed=1), 1)
    assert not torch.equal(other[0]["x0"], large[0]["x0"][:10])


def test_samples_are_exact() -> None:
    data = module(4, with_x0=True, batch_size=4000)
    (batch,) = batches(data, 1)
    law = data.law
    share = law.responsibilities(batch["x0"])
    assert (law.classes[share.argmax(1)] == batch["condition"]["label"]).double().mean() > 0.999
    assert float(batch["x0"].square().sum(1).mean()) == pytest.approx(1 + 2 * 0.01, abs=0.02)


def test_reference_and_kinds() -> None:
    reference = module(4, reference_count=400).reference()
    assert reference["samples"].shape == (400, 2) and reference["label"].bincount().tolist() == [100] * 4
    assert module().sample_kind == "points" and "label" not in module().reference()
    images = Mixture(lambda: ImageMixture(EDM(), resolution=8), reference_count=10)
    assert images.sample_kind == "image" and images.reference()["samples"].dtype == torch.uint8
    held_out = list(module(with_x0=True, held_out_count=300, batch_size=128).val_dataloader())
    assert [len(batch["x0"]) for batch in held_out] == [128, 128, 44]


def test_a_network_is_no_law() -> None:
    with pytest.raises(UserError, match="MLP"):
        Mixture(lambda: MLP(EDM(), 2)).setup()


def test_what_is_held_out_is_no_training_sample_and_the_same_for_all_seeds() -> None:
    parts = []
    for seed in (0, 1):
        sources = module(with_x0=True, seed=seed, held_out_count=64).make_sources()
        parts.append([source.batch(list(range(64)))["x0"] for source in sources])
    (train, held_out, test), (other, *same) = parts
    assert not torch.isclose(train, other).all(1).any()
    assert torch.equal(held_out, same[0]) and torch.equal(test, same[1])
    for one, two in ((train, held_out), (train, test), (held_out, test)):
        assert not torch.isclose(one[:, None], two[None]).all(2).any()
