"""Training of a text tower and a picture tower on each other: what conditions the miniatures, and what judges them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastgen import checks
from fastgen.miniatures.towers import PictureTower, TowerShape, make_text_tower
from fastgen.miniatures.training import PartTraining
from fastgen.randomness import Draws
from fastgen.storage.files import resolve

AMONG = 100
"""Captions that a picture is compared with when retrieval is measured."""


def true_of(said: Tensor, shown: Tensor) -> Tensor:
    """Which captions are true of which pictures: (P, C) bool.

    Args:
        said: What captions say, (C, K) int64, -1 where nothing is said.
        shown: What pictures show, (P, K) int64.
    """
    return ((said[None] == shown[:, None]) | (said[None] < 0)).all(-1)


def contrastive_loss(pictures: Tensor, texts: Tensor, scale: Tensor, true: Tensor, blurred: Tensor | None) -> Tensor:
    """The symmetric loss of CLIP (Radford et al. 2021, arXiv 2103.00020) in which no true pair counts as a wrong one.

    Args:
        pictures: Vectors of length one, (B, D).
        texts: Those of their captions, (B, D).
        scale: Of the similarities, scalar.
        true: Which captions are true of which pictures, (B, B).
        blurred: Vectors of pictures that no caption should find, (N, D).
    """
    own = torch.arange(len(pictures), device=pictures.device)
    hidden = true & ~torch.eye(len(own), dtype=torch.bool, device=true.device)
    similarity = (scale * pictures @ texts.T).masked_fill(hidden, -torch.inf)
    by_text = similarity.T
    if blurred is not None:
        by_text = torch.cat([by_text, scale * texts @ blurred.T], dim=1)
    return 0.5 * (nn.functional.cross_entropy(similarity, own) + nn.functional.cross_entropy(by_text, own))


def blur(pictures: Tensor, deviations: Tensor) -> Tensor:
    """Pictures (B, C, H, W) under a Gaussian of a standard deviation (B,) in pixels."""
    offsets = torch.arange(-4, 5, device=pictures.device)
    kernel = torch.exp(-0.5 * (offsets / deviations[:, None].float()).square())
    kernel = kernel / kernel.sum(1, keepdim=True)
    count = len(pictures)
    planes = nn.functional.pad(pictures, (4, 4, 4, 4), mode="replicate").transpose(0, 1)
    rows = nn.functional.conv2d(planes, kernel.reshape(count, 1, 9, 1), groups=count)
    return nn.functional.conv2d(rows, kernel.reshape(count, 1, 1, 9), groups=count).transpose(0, 1)


class ContrastiveTraining(PartTraining):
    """Trains a CLIP text model and a small picture tower on pictures and captions.

    The data module should show one drawing several times in a batch (``group``), so that background, size and position
    are learned as well as names.

    Args:
        tokenizer: Folder of the tokenizer.
        width: Of the text model's vectors.
        layers: Of the text model.
        shape: Of the picture tower.
        resolution: Side of the pictures in pixels.
        blurred: Share of a batch's pictures that stand as wrong answers once more, blurred. They make a judge that is
            harder to please than one that never saw a bad picture.
        blur_low: Smallest standard deviation of that blur in pixels.
        blur_high: Largest standard deviation.
        learning_rate: Largest learning rate of AdamW.
        folder: Where ``text_encoder``, ``tokenizer`` and ``image_encoder`` are written at the end.
    """

    def __init__(
        self,
        tokenizer: str,
        width: int = 96,
        layers: int = 2,
        shape: TowerShape = TowerShape(),
        resolution: int = 32,
        blurred: float = 0.0,
        blur_low: float = 0.7,
        blur_high: float = 2.0,
        learning_rate: float = 1e-3,
        folder: str = "<log_dir>/clip",
    ) -> None:
        checks.whole(self, width=width, layers=layers, resolution=resolution)
        checks.fraction(self, blurred=blurred)
        checks.positive(self, blur_low=blur_low, blur_high=blur_high)
        checks.ascending(self, blur_low=blur_low, blur_high=blur_high)
        super().__init__(learning_rate, folder)
        from transformers import CLIPTokenizer

        self.tokenizer_folder = resolve(tokenizer)
        self.tokenizer = CLIPTokenizer.from_pretrained(self.tokenizer_folder)
        self.text = make_text_tower(len(self.tokenizer), self.tokenizer.model_max_length, width, layers)
        self.pictures = PictureTower(TowerShape(shape.channels, shape.features, width), resolution)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.blurred = blurred
        self.blur_low, self.blur_high = blur_low, blur_high

    def texts(self, prompts: list[str]) -> Tensor:
        """Vectors of length one of captions, (B, D)."""
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return nn.functional.normalize(self.text(input_ids=tokens.to(self.device)).text_embeds, dim=-1)

    def loss(self, batch: Mapping[str, Any], draws: Draws) -> dict[str, Tensor]:
        """Both directions; blurred pictures are wrong answers to captions only."""
        x0, said, shown = batch["x0"], batch["facts"]["said"], batch["facts"]["shown"]
        extra = round(self.blurred * len(x0))
        every = x0
        if extra:
            amount = self.blur_low + (self.blur_high - self.blur_low) * draws.uniform("blur")[:extra]
            every = torch.cat([x0, blur(x0[:extra], amount)])
        vectors = self.pictures(every)
        scale = self.log_scale.exp().clamp(max=100)
        wrong = vectors[len(x0) :] if extra else None
        true = true_of(said, shown)
        return {
            "contrast": contrastive_loss(
                vectors[: len(x0)], self.texts(batch["condition"]["prompt"]), scale, true, wrong
            )
        }

    def measure(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Retrieval: how often the caption nearest to a picture, among the first ``AMONG``, is true of it.

        With blurred pictures also how often a caption prefers its picture to the same under a blur of one pixel.
        """
        x0, texts = batch["x0"][:AMONG], self.texts(batch["condition"]["prompt"][:AMONG])
        similarity = self.pictures(x0) @ texts.T
        true = true_of(batch["facts"]["said"][:AMONG], batch["facts"]["shown"][:AMONG])
        numbers = {"retrieval": true.gather(1, similarity.argmax(1, keepdim=True)).float().mean()}
        if self.blurred:
            smeared = self.pictures(blur(x0, torch.ones(len(x0), device=self.device)))
            numbers["sharp_preferred"] = (similarity.diagonal() > (smeared * texts).sum(-1)).float().mean()
        return numbers

    def parts(self) -> dict[str, Any]:
        return {"text_encoder": self.text, "tokenizer": self.tokenizer_folder, "image_encoder": self.pictures}
