"""Classifiers of what a picture shows, and their file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.denoisers.base import load_strictly
from fastgen.errors import Malformed, UserError
from fastgen.storage.documents import parse_json
from fastgen.storage.files import load_tensors, save_tensors

FILE = "attributes.safetensors"
"""Where the classifiers lie in the folder of a judge."""
KEY = "attributes"
"""The one metadata entry of the file: JSON."""
COMMAND = "python -m benchmarks.train_emoji_attributes"
"""What trains them."""


class AttributeClassifiers(nn.Module):
    """A linear classifier for every attribute, on the features of pictures.

    Args:
        classes: The values of each attribute, in the order of the scores.
        num_features: D.
    """

    def __init__(self, classes: Mapping[str, Sequence[str]], num_features: int) -> None:
        super().__init__()
        self.classes = {attribute: tuple(values) for attribute, values in classes.items()}
        self.heads = nn.ModuleDict({name: nn.Linear(num_features, len(v)) for name, v in self.classes.items()})

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Scores (N, K) by attribute for features (N, D)."""
        return {name: head(features) for name, head in self.heads.items()}

    def seen(self, features: Tensor) -> Tensor:
        """The class of the highest score of every attribute, (N, A) int64."""
        return torch.stack([scores.argmax(1) for scores in self(features).values()], dim=1)


def write_classifiers(
    folder: str | Path, classifiers: AttributeClassifiers, tower: str, description: Mapping[str, Any]
) -> Path:
    """Write classifiers in fp16 to the folder of the judge that they belong to.

    Args:
        folder: Of the judge.
        classifiers: On its features.
        tower: sha256 of the network that gives the features.
        description: How they were trained, and how well they see held-out pictures.
    """
    about = {"classes": classifiers.classes, "tower": tower, **description}
    tensors = {name: value.half() for name, value in classifiers.state_dict().items()}
    return save_tensors(Path(folder) / FILE, tensors, {KEY: json.dumps(about)})


def read_classifiers(folder: Path, num_features: int, tower: str) -> AttributeClassifiers:
    """The classifiers in the folder of a judge, in fp32.

    Args:
        folder: Of the judge.
        num_features: D of its features.
        tower: sha256 of the network that gives them.

    Raises:
        UserError: If the file is damaged, or belongs to another network.
    """
    path = folder / FILE
    tensors, metadata = load_tensors(path)
    try:
        about = parse_json(metadata.get(KEY, ""))
        classes = {str(name): [str(value) for value in values] for name, values in about["classes"].items()}
        belongs = about["tower"]
    except (Malformed, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' does not say what it classifies; write it again with '{COMMAND}'.") from error
    if belongs != tower:
        raise UserError(
            f"'{path}' was trained on the features of another network than '{folder}' has; write it again with "
            f"'{COMMAND}'."
        )
    classifiers = AttributeClassifiers(classes, num_features)
    load_strictly(classifiers, {name: value.float() for name, value in tensors.items()}, str(path))
    return classifiers
