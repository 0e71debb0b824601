"""The digits and their split."""

from __future__ import annotations

import torch

from fastgen.data.digits import Digits, load_digits_split


def test_split() -> None:
    train, test = load_digits_split()
    assert (train.x0.shape, test.x0.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert train.x0.dtype == torch.float32 and train.label.dtype == torch.int64
    assert float(train.x0.min()) == -1.0 and float(train.x0.max()) == 1.0
    of_train, of_test = train.label.bincount(minlength=10), test.label.bincount(minlength=10)
    assert (of_train + of_test).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert ((of_test - (of_train + of_test) / 5).abs() < 1).all()
    # Golden numbers: a change of the split or of the data voids every published number.
    assert (float(train.x0.double().sum()), float(test.x0.double().sum())) == (-35728.75, -9064.5)


def test_module() -> None:
    digits = Digits(batch_size=64)
    batch = next(iter(digits.train_dataloader()))
    assert batch["x0"].shape == (64, 1, 8, 8) and batch["condition"]["label"].shape == (64,)
    reference = digits.reference()
    assert reference["samples"].dtype == torch.uint8 and reference["samples"].shape == (1437, 1, 8, 8)
    assert int(reference["samples"].max()) == 255 and int(reference["samples"].min()) == 0
    assert digits.evaluation_conditions([0, 9, 10, 27])["label"].tolist() == [0, 9, 0, 7]
    assert digits.label_names == [str(i) for i in range(10)] and digits.sample_kind == "image"
    validation, test = (
        torch.cat([b["x0"] for b in loader]) for loader in (digits.val_dataloader(), digits.test_dataloader())
    )
    assert len(validation) == len(test) == 180
    both, held_out = torch.cat([validation, test]).flatten(1), load_digits_split()[1]
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, held_out.x0.flatten(1).tolist()))
    for source in digits.sources[1:]:
        assert ((source.label.bincount() - held_out.label.bincount() / 2).abs() <= 0.5).all()
