"""Drawings that move as their captions say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgen.data.emoji import MovingEmoji
from fastgen.data.emoji.motions import LARGE, MOTION_WORDS, SEQUENCES, SMALL, Clip, clip_caption, film, poses
from fastgen.data.emoji.moving import part_of
from fastgen.data.emoji.pictures import BACKGROUNDS, shrink
from fastgen.errors import UserError

FOLDER = Path(__file__).parent / "emoji"


def moving(**options) -> MovingEmoji:
    """The data module on the twelve drawings of the tests."""
    return MovingEmoji(**{"font": str(FOLDER), "drawings": str(FOLDER / "drawings.txt"), "batch_size": 4, **options})


def test_batch() -> None:
    data = moving()
    batch = next(iter(data.train_dataloader()))
    assert batch["x0"].shape == (4, 3, 9, 32, 32) and float(batch["x0"].abs().max()) <= 1
    assert len(batch["condition"]["prompt"]) == 4 and batch["facts"]["shown"].shape == (4, 4)
    train = data.sources[0]
    assert torch.equal(train.batch([2])["x0"][0], batch["x0"][2])
    assert train.captions(range(4)) == batch["condition"]["prompt"]
    assert set(moving(with_x0=False).sources[0].batch([0])) == {"condition"}
    assert moving(reference_count=3).reference()["samples"].shape == (3, 3, 9, 32, 32)
    assert moving(seed=1).sources[0].captions(range(9)) != train.captions(range(9))
    assert data.evaluation_conditions([1]) == {"prompt": data.sources[1].captions([1])}


def test_a_tenth_is_held_out() -> None:
    data = moving()
    parts = [{part_of(c) for c in source.shown(range(30))} for source in data.sources]
    assert parts == [{"train"}, {"validation"}, {"test"}]
    every = [part_of(data.clip(d, b, s)) for d in range(12) for b in range(8) for s in range(len(SEQUENCES))]
    assert abs(1 - every.count("train") / len(every) - 0.1) < 0.02
    assert not data.shows(Clip("red heart", "red", "left")) and data.shows(Clip("red heart", "blue", "left"))
    said = data.sources[0].said(range(200))
    assert 60 < sum(clip.background is None for clip in said) < 140


@pytest.mark.parametrize(("first", "second"), SEQUENCES)
def test_poses(first: str, second: str | None) -> None:
    path = poses(first, second, 9)
    assert path.shape == (9, 4) and ((path[:, :2].abs() + path[:, 2:3] / 2) <= 0.5).all(), "it stays within"
    assert ((path[:, 2] >= SMALL - 1e-9) & (path[:, 2] <= LARGE + 1e-9)).all()
    halves = [path] if second is None else [path[:5], path[4:]]
    for motion, part in zip((first, second), halves, strict=False):
        change = part[-1] - part[0]
        expected = {
            "left": (0, -1),
            "right": (0, 1),
            "up": (1, -1),
            "down": (1, 1),
            "grows": (2, 1),
            "shrinks": (2, -1),
        }
        if motion == "turns":
            assert float(change[3]) == pytest.approx(2 * math.pi)
            continue
        entry, sign = expected[str(motion)]
        assert change[entry] * sign > 0.1 and change.abs().argmax() == entry
        others = [i for i in range(4) if i != entry]
        assert change[others].abs().max() < 1e-9
    turned = poses("left", "up", 9), poses("up", "left", 9)
    assert not torch.allclose(*turned), "order matters"


def test_film() -> None:
    sprite = shrink(Image.new("RGBA", (32, 32), (255, 255, 255, 255)), 32)

    def boxes(first: str, second: str | None = None) -> list[tuple[int, int, int, int]]:
        frames = film(sprite, "black", poses(first, second, 9), 32)
        found = []
        for frame in (frames[0] > 200).unbind(0):
            rows, columns = frame.any(1).nonzero().flatten(), frame.any(0).nonzero().flatten()
            found.append((int(columns[0]), int(columns[-1]), int(rows[0]), int(rows[-1])))
        return found

    left, up, grows = boxes("left"), boxes("up"), boxes("grows")
    assert left[0][0] - left[-1][0] == pytest.approx(14, abs=1) and left[0][2:] == left[-1][2:]
    assert up[0][2] - up[-1][2] == pytest.approx(14, abs=1) and up[0][:2] == up[-1][:2]
    sides = [right - left + 1 for left, right, _, _ in grows]
    assert sides == sorted(sides) and sides[0] == pytest.approx(32 * SMALL, abs=2)
    assert sides[-1] == pytest.approx(32 * LARGE, abs=2)
    frames = film(sprite, "blue", poses("turns", None, 9), 32)
    assert tuple(frames[:, 0, 0, 0].tolist()) == BACKGROUNDS["blue"]
    assert (frames[:, 0].int() - frames[:, 8].int()).abs().max() <= 1, "a whole turn"
    half = torch.zeros_like(sprite)
    half[:, :16] = sprite[:, :16]  # the upper half, which a quarter of a turn clockwise brings to the right
    quarter = film(half, "black", poses("turns", None, 9), 32)[0, 2]
    assert quarter[16, 20] > 200 and quarter[16, 11] < 50


@pytest.mark.parametrize(
    ("clip", "wording", "text"),
    [
        (Clip("fox", "red", "left", None), (0, 0, 0, 0, 0), "a fox on a red background moves left"),
        (Clip("owl", None, "left", "grows"), (0.9, 0.9, 0.9, 0, 0), "an owl first goes to the left, then gets bigger"),
        (Clip("eyes", "grey", "turns", "up"), (0.9, 0, 0, 0.3, 0.9), "eyes on gray spin and then move up"),
    ],
)
def test_captions(clip: Clip, wording: tuple[float, ...], text: str) -> None:
    assert clip_caption(clip, wording) == text


def test_mistakes() -> None:
    with pytest.raises(UserError, match="frames"):
        moving(frames=2)
    assert len(SEQUENCES) == len(MOTION_WORDS) ** 2
