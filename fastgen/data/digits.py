"""The 8x8 handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.configuration.components import Seed
from fastgen.data.base import DistillationData
from fastgen.data.sources import BatchSource, TensorSource
from fastgen.errors import UserError
from fastgen.pictures.pixels import to_uint8


def load_digits_split() -> tuple[TensorSource, TensorSource]:
    """The 1437 training and 360 held-out scans, (N, 1, 8, 8) in [-1, 1], with labels 0-9.

    The split is a rule, not a draw: of all scans sorted by digit (in file order within a digit), every fifth from the
    first on is held out. So both parts have the shares of the digits to within one scan.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("The digits come with scikit-learn, which is missing; pip install scikit-learn.") from error
    bunch = load_digits()
    label = torch.as_tensor(bunch.target, dtype=torch.int64)
    x0 = torch.as_tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16 * 2 - 1
    order = torch.argsort(label, stable=True)
    held_out = torch.arange(len(order)) % 5 == 0
    train, test = order[~held_out].sort().values, order[held_out].sort().values
    return TensorSource(x0[train], label[train]), TensorSource(x0[test], label[test])


def halves(source: TensorSource) -> tuple[TensorSource, TensorSource]:
    """Every other sample of those sorted by label, and the rest; the shares of the labels stay."""
    assert source.label is not None
    order = torch.argsort(source.label, stable=True)
    first, second = order[::2].sort().values, order[1::2].sort().values
    return TensorSource(source.x0[first], source.label[first]), TensorSource(source.x0[second], source.label[second])


class Digits(DistillationData):
    """1797 scans of handwritten digits, grey, 8x8, ten classes; needs scikit-learn and no download.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998, as in
    ``sklearn.datasets.load_digits``. See :func:`load_digits_split` for what is
    held out; validation and test have one half each.

    Args:
        batch_size: Samples per rank and batch.
        seed: Seed of the sample order; ``seed_everything`` is that of the run.
        num_workers: Loader processes per rank.
        predict_count: Number of samples that ``fastgen predict`` makes.
    """

    def __init__(
        self, batch_size: int = 128, seed: Seed = "seed_everything", num_workers: int = 0, predict_count: int = 100
    ) -> None:
        super().__init__(batch_size, seed, num_workers, predict_count)

    def make_sources(self) -> tuple[BatchSource, ...]:
        """1437 scans for training and 180 each for validation and test."""
        train, held_out = load_digits_split()
        return train, *halves(held_out)

    @property
    def num_classes(self) -> int:
        """Ten."""
        return 10

    def reference(self) -> dict[str, Tensor]:
        """The 1437 training scans."""
        train = self.sources[0]
        assert isinstance(train, TensorSource) and train.label is not None
        return {"samples": to_uint8(train.x0), "label": train.label}
