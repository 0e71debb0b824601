"""How a drawing moves: paths, sizes and angles over a clip, and the frames that they make."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.data.emoji.captions import BACKGROUND_WORDS, PLURAL, SPELLINGS, pick
from fastgen.data.emoji.pictures import colour

MOTION_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("moves left", "goes to the left"),
    "right": ("moves right", "goes to the right"),
    "up": ("moves up", "goes up"),
    "down": ("moves down", "goes down"),
    "grows": ("grows", "gets bigger"),
    "shrinks": ("shrinks", "gets smaller"),
    "turns": ("turns", "spins"),
}
MANY: dict[str, str] = {"moves": "move", "goes": "go", "grows": "grow", "gets": "get", "shrinks": "shrink"}
MANY |= {"turns": "turn", "spins": "spin"}
"""The verbs of names in the plural."""
DIRECTIONS: dict[str, tuple[float, float]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""To the right and down."""
SEQUENCES: tuple[tuple[str, str | None], ...] = (
    *((motion, None) for motion in MOTION_WORDS),
    *permutations(MOTION_WORDS, 2),
)
"""What happens in a clip: one motion throughout, or another from its middle on."""
WAYS = ("{} and then {}", "{}, then {}", "first {}, then {}")
LARGE, SMALL = 0.7, 0.4
"""Side of a drawing as a share of the picture's, at the ends of growing and shrinking; between them it is the mean."""
ROOM = 0.44
"""How far a drawing moves in the whole clip, in sides of the picture: it stays within."""


@dataclass(frozen=True)
class Clip:
    """What a clip shows, or what a caption says of one; ``None`` as a background is left open, as a motion is none.

    Attributes:
        name: Of the drawing.
        background: One of ``BACKGROUNDS``.
        first: The motion of the clip, or of its first half.
        second: The motion of its second half, if that is another.
    """

    name: str
    background: str | None
    first: str
    second: str | None = None


def poses(first: str, second: str | None, frames: int) -> Tensor:
    """Where a drawing is in every frame: (frames, 4) of x, y (in sides of the picture from its middle), side, angle.

    The path is centred, so that its beginning says nothing of its end.
    """
    time = torch.linspace(0, 1, frames, dtype=torch.float64)
    shares = {first: time} if second is None else {first: (2 * time).clamp(max=1), second: (2 * time - 1).clamp(min=0)}
    reach = ROOM if second is None else ROOM / 2
    place = torch.zeros(frames, 2, dtype=torch.float64)
    side = torch.full((frames,), (LARGE + SMALL) / 2, dtype=torch.float64)
    sized = [motion for motion in shares if motion in ("grows", "shrinks")]
    if sized:
        side = torch.full((frames,), SMALL if sized[0] == "grows" else LARGE, dtype=torch.float64)
    angle = torch.zeros(frames, dtype=torch.float64)
    for motion, share in shares.items():
        if motion in DIRECTIONS:
            place = place + reach * share[:, None] * torch.tensor(DIRECTIONS[motion], dtype=torch.float64)
        elif motion == "turns":
            angle = angle + 2 * math.pi * share
        else:
            side = side + (LARGE - SMALL) * share * (1 if motion == "grows" else -1)
    place = place - (place.amax(0) + place.amin(0)) / 2
    return torch.cat([place, side[:, None], angle[:, None]], dim=1)


def film(sprite: Tensor, background: str, path: Tensor, resolution: int) -> Tensor:
    """The frames of a clip.

    Args:
        sprite: A drawing with its colours times alpha, (4, S, S); half as large as that it is still sharp.
        background: One of ``BACKGROUNDS``.
        path: What :func:`poses` says, (F, 4).
        resolution: Side of the frames in pixels.

    Returns:
        uint8 (3, F, resolution, resolution).
    """
    x, y, side, angle = path.float().unbind(1)
    cosine, sine = angle.cos() / side, angle.sin() / side
    rows = [torch.stack([cosine, sine, -2 * (cosine * x + sine * y)], 1)]
    rows += [torch.stack([-sine, cosine, -2 * (cosine * y - sine * x)], 1)]
    places = F.affine_grid(torch.stack(rows, 1), [len(path), 4, resolution, resolution], align_corners=False)
    laid = F.grid_sample(sprite.expand(len(path), *sprite.shape), places, align_corners=False)
    pictures = laid[:, :3] + (1 - laid[:, 3:]) * colour(background)
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8).transpose(0, 1)


def clip_caption(said: Clip, wording: Sequence[float]) -> str:
    """A caption that says this and nothing else.

    Args:
        said: What is said; the name and the motions always are.
        wording: Five numbers in [0, 1) that choose the words for both motions, how they are joined, the background,
            its spelling.
    """
    first, second, way, ground, spelling = wording
    does = pick(MOTION_WORDS[said.first], first)
    if said.second is not None:
        does = pick(WAYS, way).format(does, pick(MOTION_WORDS[said.second], second))
    if PLURAL.fullmatch(said.name):
        who = said.name
        does = " ".join(MANY.get(word, word) for word in does.split(" "))
    else:
        who = f"{'an' if said.name[0] in 'aeiou' and not said.name.startswith('uni') else 'a'} {said.name}"
    if said.background is None:
        return f"{who} {does}"
    spelled = pick(SPELLINGS.get(said.background, (said.background,)), spelling)
    return f"{who} {pick(BACKGROUND_WORDS, ground).format(spelled)} {does}"


def words_of_motions() -> list[str]:
    """Every word that says what happens in a clip, sorted."""
    texts = [*(word for several in MOTION_WORDS.values() for word in several), *MANY, *MANY.values(), *WAYS]
    return sorted({word for text in texts for word in re.findall(r"[a-z]+", text)})
