"""What a metric of pictures and of what they were made from is: prompts, seeds, the teacher's pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from fastgen.metrics.base import SampleMetric


@dataclass(frozen=True)
class Pictures:
    """A batch of decoded samples with all that is known about it.

    Attributes:
        images: uint8 (B, C, H, W).
        prompt: B texts that they should show, ``None`` if there are no prompts.
        label: (B,) classes that they should show, ``None`` if there are none.
        style: B names of groups of prompts, ``None`` if the data module has no groups.
        seeds: What they were made from, B numbers, no two alike; ``None`` if unknown.
        teacher: The teacher's pictures from equal noise by seed, as far as they were asked for; uint8 (C, H, W).
    """

    images: Tensor
    prompt: Sequence[str] | None = None
    label: Tensor | None = None
    style: Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    teacher: dict[int, Tensor] | None = None

    def split(self, size: int) -> Iterator[Pictures]:
        """Batches of at most ``size``."""
        for start in range(0, len(self.images), size):
            rows = slice(start, start + size)
            yield Pictures(
                self.images[rows],
                None if self.prompt is None else self.prompt[rows],
                None if self.label is None else self.label[rows],
                None if self.style is None else self.style[rows],
                None if self.seeds is None else self.seeds[rows],
                self.teacher,
            )


class PictureMetric(SampleMetric):
    """A metric of pictures, by class path in ``TextImageMetrics.metrics``.

    Subclasses set ``numbers`` and override :meth:`observe`, :meth:`compute` and :meth:`fingerprint`; their states are
    torchmetrics', so that several processes say what one says.

    Attributes:
        in_parts: Whether a network reads the pictures, so that only a few come at a time.
    """

    in_parts: bool = True

    @property
    def wants_teacher(self) -> int:
        """How many of the first samples the teacher should make from the same noise."""
        return 0

    @abstractmethod
    def observe(self, batch: Pictures) -> None:
        """Take in a batch."""

    @abstractmethod
    def fingerprint(self) -> str:
        """What the numbers depend on besides the pictures: network, preprocessing, weights."""
