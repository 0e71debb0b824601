"""A judge of drawings that knows every picture by heart and reads every caption, and so is never wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgen.data.emoji.captions import read
from fastgen.data.emoji.module import Emoji
from fastgen.data.emoji.pictures import BACKGROUNDS, POSITIONS, SIZES
from fastgen.metrics.judge.base import CaptionJudge


def key(image: Tensor) -> bytes:
    return bytes(image.flatten().tolist())


class SeeingJudge(CaptionJudge):
    """Features have a one for every value that is shown; texts also have what they rule out."""

    name = "seeing"
    preprocessing = "none"
    logits_show_labels = False

    def __init__(self, data: Emoji) -> None:
        super().__init__()
        self.names = data.names
        self.known: dict[bytes, Tensor] = {}
        for part in range(3):
            pictures, shown = data.pictures_of(part)
            numbers = data.drawings.numbers(shown)
            self.known |= {key(picture): row for picture, row in zip(pictures, numbers, strict=True)}
        self.sizes = [len(values) for values in self.classes.values()]
        self.num_features = sum(self.sizes)

    @property
    def classes(self):
        return {"name": self.names, "background": list(BACKGROUNDS), "size": list(SIZES), "position": list(POSITIONS)}

    def build(self) -> nn.Module:
        return nn.Identity()

    def digits(self, numbers: Tensor) -> Tensor:
        """Ones where the values are, zero where nothing is said."""
        columns = zip(numbers.unbind(1), self.sizes, strict=True)
        return torch.cat([functional.one_hot(value + 1, size + 1)[:, 1:] for value, size in columns], dim=1).float()

    def extract(self, images: Tensor) -> Tensor:
        return self.digits(torch.stack([self.known[key(image)] for image in images]))

    def embed(self, features: Tensor) -> Tensor:
        return functional.normalize(features, dim=1)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        pictures = [read(prompt, self.names) for prompt in prompts]
        said = self.numbers([{k: v for k, v in vars(one).items() if v} for one in pictures])
        vectors = self.digits(said)
        for row, part in zip(said, vectors.split(1), strict=True):  # what contradicts counts more than what agrees
            for value, own in zip(row, part.split(self.sizes, dim=1), strict=True):
                own += -10 * (1 - own) * (value >= 0)
        return functional.normalize(vectors, dim=1)

    def seen(self, features: Tensor) -> Tensor:
        return torch.stack([part.argmax(1) for part in features.split(self.sizes, dim=1)], dim=1)
