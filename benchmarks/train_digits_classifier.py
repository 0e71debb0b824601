"""Trains the classifier behind the metrics of the digits: ``python -m benchmarks.train_digits_classifier``.

Some 15 seconds on one CPU core. It sees the 1437 training images only; the 360 held-out ones measure it. After
writing a new file, put the digest that is printed into ``SHIPPED_SHA256`` in
``fastgen/metrics/extractors/classifier.py``: all numbers measured with the old file are then void.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from fastgen.data.digits import load_digits_split
from fastgen.metrics.extractors.classifier import DigitsNetwork
from fastgen.storage.files import ASSETS, save_tensors, sha256


def augment(images: Tensor) -> Tensor:
    """Images (N, 1, 8, 8) turned by up to 10 degrees, scaled by up to 10 % and moved by up to half a pixel."""
    count = len(images)
    turn, stretch = (torch.rand(2, count) * 2 - 1) * torch.tensor([[math.radians(10)], [0.1]])
    shift = (torch.rand(count, 2) * 2 - 1) * 0.5 * (2 / 8)  # grid coordinates: the image is 2 wide
    cos, sin = torch.cos(turn) * (1 + stretch), torch.sin(turn) * (1 + stretch)
    rows = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    # Outside is ink-free paper, -1; grid_sample fills with 0, so shift there and back.
    moved = functional.grid_sample(images + 1, grid, align_corners=False) - 1
    return moved + 0.05 * torch.randn_like(moved)


def train(epochs: int, seed: int) -> tuple[DigitsNetwork, float]:
    """A trained network and its accuracy on the held-out images."""
    torch.manual_seed(seed)
    data, test = load_digits_split()
    assert data.label is not None and test.label is not None
    network = DigitsNetwork()
    batch_size = 64
    steps = epochs * (len(data.x0) // batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    network.train()
    for step in range(steps):
        position = step % (len(data.x0) // batch_size)
        if position == 0:
            order = torch.randperm(len(data.x0))
        rows = order[position * batch_size : (position + 1) * batch_size]
        loss = functional.cross_entropy(network(augment(data.x0[rows])), data.label[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        accuracy = float((network(test.x0).argmax(1) == test.label).double().mean())
    return network, accuracy


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ASSETS / "digits_classifier.safetensors")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network, accuracy = train(arguments.epochs, arguments.seed)
    if accuracy < 0.98:
        raise SystemExit(f"held-out accuracy {accuracy:.4f} is below 0.98; nothing was written")
    # One metadata entry: safetensors writes several in random order, and the file must have one digest.
    made = f"epochs {arguments.epochs}, seed {arguments.seed}, held-out accuracy {accuracy:.4f}"
    path = save_tensors(arguments.out, network.state_dict(), {"training": made})
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"held-out accuracy {accuracy:.4f}, {count} parameters\nwrote {path.name}\nsha256 {sha256(path)}")


if __name__ == "__main__":
    main()
