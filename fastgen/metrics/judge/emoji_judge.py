"""The judge of the emoji drawings: a small CLIP that was trained on them, and classifiers of what they show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgen.denoisers.diffusers.pipeline_files import first_line, read_json
from fastgen.denoisers.diffusers.pipeline_folder import only_errors
from fastgen.errors import UserError
from fastgen.metrics.extractors.features import state_digest
from fastgen.metrics.judge.attributes import FILE, AttributeClassifiers, read_classifiers
from fastgen.metrics.judge.base import CaptionJudge
from fastgen.miniatures.towers import PictureTower
from fastgen.storage.files import ASSET_PREFIX, ASSETS, resolve

PARTS = ("image_encoder", "text_encoder", "tokenizer")
SHIPPED = "asset:miniatures/emoji-judge"
"""The judge of the repository's own numbers; docs/miniatures.md says how it was made."""


@contextmanager
def reading_part(folder: str, part: str) -> Iterator[None]:
    """One sentence for whatever a library finds wrong with a part of a folder.

    Raises:
        UserError: In place of its exception.
    """
    try:
        yield
    except Exception as error:  # there is one for every fault
        raise UserError(f"'{folder}/{part}' cannot be read ({first_line(error)}); copy it again.") from error


class JudgeNetwork(nn.Module):
    """The towers of a judge, and its classifiers if it has any.

    Args:
        pictures: Tower of pictures.
        text: Tower of captions.
        classifiers: On the features of ``pictures``.
    """

    def __init__(self, pictures: PictureTower, text: nn.Module, classifiers: AttributeClassifiers | None) -> None:
        super().__init__()
        self.pictures = pictures
        self.text = text
        self.classifiers = classifiers


class EmojiJudge(CaptionJudge):
    """A small CLIP (Radford et al. 2021, arXiv 2103.00020) for 32x32 drawings, with classifiers of what they show.

    It is not the text tower that conditions the miniature teachers: a sampler that fools one network need not fool
    another. Its features are those before the projection.

    Args:
        folder: With ``image_encoder``, ``text_encoder`` and ``tokenizer`` as ``python -m fastgen.miniatures`` trains
            them, and with the classifiers of ``python -m benchmarks.train_emoji_attributes``, without which attributes
            cannot be measured. The default is the judge of the miniature teachers.
        classifiers: Whether to read those.
    """

    name = "emoji_judge"
    logits_show_labels = False

    def __init__(self, folder: str = SHIPPED, classifiers: bool = True) -> None:
        super().__init__()
        self.folder = folder
        self.classifiers = classifiers
        config = read_json(self.path / "image_encoder" / "config.json")
        try:
            self.num_features, self.resolution = int(config["features"]), int(config["resolution"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"'{folder}/image_encoder/config.json' describes no picture tower; copy the folder again."
            ) from error
        self.preprocessing = f"{self.resolution}x{self.resolution}rgb"

    @cached_property
    def path(self) -> Path:
        """The folder.

        Raises:
            UserError: If it or a part of it is missing.
        """
        if self.folder == SHIPPED and not (ASSETS / SHIPPED.removeprefix(ASSET_PREFIX)).is_dir():
            raise UserError(
                "The judge 'emoji-judge' is not part of this installation; take fastgen/assets/miniatures from a "
                "checkout of the repository, or train it as docs/miniatures.md says and give its folder."
            )
        found = resolve(self.folder)
        for part in PARTS:
            if not (found / part).is_dir():
                raise UserError(
                    f"'{self.folder}' is no folder of a judge, because it lacks '{part}'; give one with "
                    f"{', '.join(PARTS)}."
                )
        return found

    def build(self) -> JudgeNetwork:
        """The towers, and the classifiers if they are there."""
        from transformers import CLIPTextModelWithProjection

        pictures = PictureTower.from_pretrained(self.path / "image_encoder")
        with reading_part(self.folder, "text_encoder"), only_errors():
            text = CLIPTextModelWithProjection.from_pretrained(
                self.path / "text_encoder", use_safetensors=True, local_files_only=True
            )
        there = self.classifiers and (self.path / FILE).exists()
        classifiers = read_classifiers(self.path, self.num_features, state_digest(pictures)) if there else None
        return JudgeNetwork(pictures, text.float(), classifiers)

    @property
    def judge(self) -> JudgeNetwork:
        """The network."""
        network = self.network
        assert isinstance(network, JudgeNetwork)
        return network

    @cached_property
    def tokenizer(self) -> Any:
        """That of the captions."""
        from transformers import CLIPTokenizer

        with reading_part(self.folder, "tokenizer"):
            return CLIPTokenizer.from_pretrained(self.path / "tokenizer", local_files_only=True)

    def load(self) -> None:
        """Read network and tokenizer."""
        super().load()
        _ = self.tokenizer

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        """What the classifiers tell apart."""
        return {} if self.judge.classifiers is None else self.judge.classifiers.classes

    def extract(self, images: Tensor) -> Tensor:
        """Features (N, F) of pictures."""
        if images.shape[1:] != (3, self.resolution, self.resolution):
            raise UserError(
                f"EmojiJudge reads RGB pictures of {self.resolution}x{self.resolution}, got {tuple(images.shape[1:])}; "
                "give the metrics a judge that fits the data."
            )
        return self.judge.pictures.features(images.float() / 127.5 - 1)

    @torch.no_grad()
    def embed(self, features: Tensor) -> Tensor:
        """Projected features (N, D) of length one."""
        return functional.normalize(self.judge.pictures.projection(features.to(self.device)), dim=1)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Vectors of captions (N, D); all are filled up to the same number of tokens."""
        read = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
        return functional.normalize(self.judge.text(input_ids=read.input_ids.to(self.device)).text_embeds, dim=1)

    @torch.no_grad()
    def seen(self, features: Tensor) -> Tensor:
        """What the classifiers see, (N, A)."""
        classifiers = self.judge.classifiers
        return super().seen(features) if classifiers is None else classifiers.seen(features.to(self.device))
