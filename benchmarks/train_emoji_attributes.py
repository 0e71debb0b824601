"""Trains the classifiers with which the judge of the emoji drawings sees what a picture shows.

    python -m benchmarks.train_emoji_attributes --judge FOLDER

A linear classifier each for the drawing's name, background, size and position, on the features of the judge's picture
tower: about a minute on one CPU core. They see all combinations that training shows; those held out measure them. The
file ``attributes.safetensors`` is written into the judge's folder. It changes the judge's fingerprint, so numbers of
before and after are told apart.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fastgen.data import Emoji
from fastgen.data.emoji.pictures import BACKGROUNDS, POSITIONS, SIZES
from fastgen.errors import UserError
from fastgen.metrics import EmojiJudge
from fastgen.metrics.extractors.features import state_digest
from fastgen.metrics.judge.attributes import AttributeClassifiers, write_classifiers

BATCH = 256
LEARNING_RATE = 0.02
DECAY = 1e-4


def classes_of(data: Emoji) -> dict[str, Sequence[str]]:
    """The values of each attribute, in the order of ``Drawings.numbers``."""
    return {"name": data.names, "background": list(BACKGROUNDS), "size": list(SIZES), "position": list(POSITIONS)}


def features_of(judge: EmojiJudge, data: Emoji, part: int) -> tuple[Tensor, Tensor]:
    """Features (N, F) of all pictures of a part of the data, and what they show (N, A)."""
    pictures, shown = data.pictures_of(part)
    return torch.cat([judge(rows) for rows in pictures.split(BATCH)]), data.drawings.numbers(shown)


def fit(
    features: Tensor, numbers: Tensor, classes: Mapping[str, Sequence[str]], epochs: int, seed: int
) -> AttributeClassifiers:
    """Logistic regression of every attribute by AdamW, on standardised features.

    Args:
        features: (N, F).
        numbers: Classes (N, A).
        classes: Their names by attribute.
        epochs: Passes over the features.
        seed: Of their order.
    """
    generator = torch.Generator().manual_seed(seed)
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-6)
    classifiers = AttributeClassifiers(classes, features.shape[1])
    for parameter in classifiers.parameters():
        torch.nn.init.zeros_(parameter)  # the loss is convex
    optimizer = torch.optim.AdamW(classifiers.parameters(), LEARNING_RATE, weight_decay=DECAY)
    steps = epochs * -(-len(features) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(features), generator=generator).split(BATCH):
            scores = classifiers((features[rows] - mean) / deviation).values()
            columns = numbers[rows].unbind(1)
            loss = torch.stack([functional.cross_entropy(s, c) for s, c in zip(scores, columns, strict=True)]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():  # into the weights, so that they take features as they come
        for head in classifiers.heads.values():
            assert isinstance(head, torch.nn.Linear)
            head.weight /= deviation
            head.bias -= head.weight @ mean
    return classifiers


@torch.no_grad()
def accuracies(classifiers: AttributeClassifiers, features: Tensor, numbers: Tensor) -> dict[str, float]:
    """How often each attribute is seen."""
    right = (classifiers.seen(features) == numbers).double().mean(0).tolist()
    return dict(zip(classifiers.classes, (round(share, 4) for share in right), strict=True))


def main(words: Sequence[str] | None = None) -> int:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", required=True, help="folder with image_encoder, text_encoder and tokenizer")
    parser.add_argument("--font", default="system", help="as of the data module Emoji")
    parser.add_argument("--drawings", default="asset:emoji_drawings.txt", help="as of the data module Emoji")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    try:
        judge = EmojiJudge(options.judge, classifiers=False)
        data = Emoji(options.font, options.drawings, judge.resolution)
        features, numbers = features_of(judge, data, 0)
        classifiers = fit(features, numbers, classes_of(data), options.epochs, options.seed)
        held_out = [features_of(judge, data, part) for part in (1, 2)]
        found = accuracies(classifiers, *(torch.cat(tensors) for tensors in zip(*held_out, strict=True)))
        about = {"training": f"epochs {options.epochs}, seed {options.seed}", "held_out_accuracy": found}
        path = write_classifiers(judge.path, classifiers, state_digest(judge.judge.pictures), about)
    except UserError as error:
        print(f"fastgen: {error}", file=sys.stderr)
        return 2
    print(f"held-out accuracy: {', '.join(f'{name} {share:.4f}' for name, share in found.items())}\nwrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
