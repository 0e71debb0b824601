"""Drawings on backgrounds and their captions; the drawings are those of a folder, as the font may be missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgen.data.emoji import Emoji, fonts
from fastgen.data.emoji.captions import Picture, caption, read, words_of
from fastgen.data.emoji.drawings import COMBINATIONS, HELD_OUT, read_drawings
from fastgen.data.emoji.pictures import BACKGROUNDS, POSITIONS, SIZES, compose, shrink, visible_share
from fastgen.errors import UserError

FOLDER = Path(__file__).parent / "emoji"


def emoji(**options) -> Emoji:
    """The data module on the twelve drawings of the tests."""
    return Emoji(**{"font": str(FOLDER), "drawings": str(FOLDER / "drawings.txt"), "batch_size": 16, **options})


@pytest.fixture(scope="module")
def data() -> Emoji:
    return emoji()


def test_batch(data: Emoji) -> None:
    batch = next(iter(data.train_dataloader()))
    assert batch["x0"].shape == (16, 3, 32, 32) and batch["x0"].dtype == torch.float32
    assert float(batch["x0"].min()) >= -1 and float(batch["x0"].max()) <= 1
    assert len(batch["condition"]["prompt"]) == 16 and len(data.names) == 12
    shown, said = batch["facts"]["shown"], batch["facts"]["said"]
    assert shown.shape == said.shape == (16, 4) and ((said == shown) | (said == -1)).all()
    assert (said[:, 0] == shown[:, 0]).all() and set(emoji(with_x0=False).sources[0].batch([0])) == {"condition"}


def test_a_sample_depends_on_its_number_and_the_seed_alone(data: Emoji) -> None:
    train = data.sources[0]
    whole, part = train.batch(range(40)), train.batch([7, 31])
    assert torch.equal(whole["x0"][[7, 31]], part["x0"])
    assert [whole["condition"]["prompt"][i] for i in (7, 31)] == part["condition"]["prompt"]
    assert emoji(seed=1).sources[0].captions(range(9)) != train.captions(range(9))
    assert emoji(seed=1).sources[1].captions(range(9)) == data.sources[1].captions(range(9))


def test_a_tenth_of_the_combinations_is_held_out(data: Emoji) -> None:
    train, validation, test = ({(i, n) for i, row in enumerate(part) for n in row} for part in data.parts)
    assert not train & validation and not train & test and not validation & test
    everything = len(train | validation | test)
    assert everything < len(data.names) * len(COMBINATIONS), "none vanishes"
    assert abs((len(validation) + len(test)) / everything - HELD_OUT) < 0.03
    for number, part in enumerate((train, validation, test)):
        seen = set(map(tuple, data.drawings.numbers(data.sources[number].shown(range(400)))[:, :1].tolist()))
        known = {(i,) for i, _ in part}
        assert seen <= known and len(seen) == len(known)
    # A drawing that is added moves no other.
    assert data.drawings.picture(3, 17) in data.pictures_of(next(p for p in range(3) if 17 in data.parts[p][3]))[1]


def test_what_vanishes_is_left_out(data: Emoji) -> None:
    shown = {(p.name, p.background) for part in range(3) for p in data.pictures_of(part)[1]}
    assert ("red heart", "red") not in shown and ("red heart", "blue") in shown and ("smiley", "yellow") not in shown
    square = torch.cat([torch.tensor(BACKGROUNDS["green"]).reshape(3, 1, 1) / 255, torch.ones(1, 1, 1)]).expand(4, 8, 8)
    assert visible_share(square, "green") == 0 and visible_share(square, "white") == 1


def test_pictures() -> None:
    red = Image.new("RGBA", (100, 50), (255, 0, 0, 255))
    sprite = shrink(red, 24)
    assert sprite.shape == (4, 24, 24) and sprite[3].sum() == 24 * 12 and not sprite[3, :6].any()
    pictures = {place: compose(sprite, "blue", place, 32) for place in POSITIONS}
    for place, (row, column) in {"left": (8, 0), "right": (8, 31), "top": (8, 8), "bottom": (23, 8)}.items():
        where = (pictures[place][0] == 255).nonzero()
        assert (where - torch.tensor([row, column])).abs().sum(1).min() <= 2, place
    assert tuple(pictures["middle"][:, 0, 0].tolist()) == BACKGROUNDS["blue"]
    hidden = Image.new("RGBA", (64, 64), (0, 255, 0, 0))  # a colour under what does not show
    hidden.paste((255, 0, 0, 255), (0, 0, 32, 64))
    assert shrink(hidden.resize((64, 64)), 8)[1].max() == 0


def test_half_is_left_unsaid(data: Emoji) -> None:
    said = data.drawings.numbers(data.sources[0].said(range(1000)))
    assert ((said[:, 1:] >= 0).float().mean(0) - 0.5).abs().max() < 0.06
    rows = set(map(tuple, (said[:, 1:] >= 0).tolist()))
    assert len(rows) == 8


@pytest.mark.parametrize(
    ("said", "wording", "text"),
    [
        (Picture("red apple", "blue", "small", "left"), (0,) * 5, "a small red apple on the left on a blue background"),
        (Picture("owl", "grey", "large", None), (0.5, 0.5, 0, 0.5, 0.9), "a big owl with a gray background"),
        (Picture("owl", "grey", None, None), (0.5, 0, 0, 0.3, 0), "an owl on grey"),
        (Picture("grapes", None, None, "top"), (0.9, 0, 0.5, 0, 0), "grapes, near the top"),
        (Picture("grapes", None, None, None), (0, 0, 0, 0, 0), "grapes"),
        (Picture("unicorn", None, None, None), (0, 0, 0, 0, 0), "a unicorn"),
    ],
)  # fmt: skip
def test_captions(said: Picture, wording: tuple[float, ...], text: str) -> None:
    assert caption(said, wording) == text
    assert read(text, ["red apple", "apple", "owl", "grapes", "unicorn"]) == said


def test_captions_say_what_is_said_and_are_read_back(data: Emoji) -> None:
    train = data.sources[0]
    texts, said, shown = train.captions(range(500)), train.said(range(500)), train.shown(range(500))
    assert [read(text, data.names) for text in texts] == said
    assert all(one.holds_of(other) for one, other in zip(said, shown, strict=True))
    assert len(set(texts)) > 350
    words = set(words_of(data.names))
    assert {word for text in texts for word in text.replace(",", " , ").split()} <= words
    assert read("Two foxes", data.names) == Picture(None)
    assert not Picture("fox", "red").holds_of(Picture("fox", "blue", "small", "left"))


def test_groups_show_one_drawing() -> None:
    names = [p.name for p in emoji(group=4).sources[0].shown(range(64))]
    groups = [set(names[i : i + 4]) for i in range(0, 64, 4)]
    assert all(len(group) == 1 for group in groups) and len(set.union(*groups)) > 6


def test_evaluation(data: Emoji) -> None:
    held_out = data.sources[1].captions(range(5))
    assert data.evaluation_conditions([8, 9, 0, 1200])["prompt"][:3] == [held_out[4], held_out[4], held_out[0]]
    reference = emoji(reference_count=20).reference()["samples"]
    assert reference.shape == (20, 3, 32, 32) and reference.dtype == torch.uint8
    assert emoji(resolution=64).sources[0].batch([0])["x0"].shape == (1, 3, 64, 64)
    pictures, shown = data.pictures_of(2)
    assert len(pictures) == len(shown) == sum(map(len, data.parts[2]))


def test_real_pictures_of_the_captions_that_are_measured() -> None:
    data = emoji(repeats=64, resolution=16)
    parts = [zip(*data.pictures_of(part), strict=True) for part in range(3)]
    known = {bytes(picture.flatten().tolist()): shown for part in parts for picture, shown in part}
    captions, said = data.evaluation_conditions(range(256))["prompt"], data.evaluation_groups(range(256))["said"]
    real = data.evaluation_samples(range(256))
    assert real.dtype == torch.uint8 and torch.equal(real[[5, 200]], data.evaluation_samples([5, 200]))
    seen = [known[bytes(x.flatten().tolist())] for x in real]
    for first in range(0, 256, 64):
        assert len(set(captions[first : first + 64])) == 1
        told = read(captions[first], data.names)
        assert said[first] == {name: value for name, value in vars(told).items() if value is not None}
        assert all(told.holds_of(picture) for picture in seen[first : first + 64])
        for attribute, value in vars(told).items():
            there = {vars(picture)[attribute] for picture in seen[first : first + 64]}
            assert len(there) == (1 if value else {"background": len(there), "size": 2, "position": 5}[attribute])
            assert value or len(there) > 1


def test_the_shipped_list() -> None:
    drawings = read_drawings("asset:emoji_drawings.txt")
    assert len(drawings) == 303 and drawings["red apple"] == "\U0001f34e"
    assert len(set(drawings.values())) == 303 and max(len(name.split()) for name in drawings) == 3
    for name in drawings:
        told = Picture(name, "red", "small", "top")
        assert read(caption(told, (0, 0, 0, 0, 0)), list(drawings)) == told


def test_the_font() -> None:
    try:
        font = fonts.find_font()
    except UserError:
        pytest.skip("needs Noto Color Emoji")
    (apple,) = fonts.render(font, ["\U0001f34e"])
    assert apple.mode == "RGBA" and max(apple.size) > 100
    shipped = shrink(Image.open(FOLDER / "1F34E.png"), 24)
    assert (shrink(apple, 24) - shipped).abs().mean() < 0.05
    with pytest.raises(UserError, match=r"no coloured drawing of U\+41"):
        fonts.render(font, ["A"])


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "FOLDERS", (str(tmp_path),))
    with pytest.raises(UserError, match="install the package fonts-noto-color-emoji"):
        Emoji().setup()
    (tmp_path / "no.ttf").write_bytes(b"no font")
    with pytest.raises(UserError, match="cannot be used as an emoji font"):
        Emoji(font=str(tmp_path / "no.ttf")).setup()
    with pytest.raises(UserError, match="1F34E"):
        emoji(font=str(tmp_path)).setup()
    for text, told in {
        "apple": "the line 'apple'",
        "41 a\n42 a": "two drawings named 'a'",
        "# a": "names no drawing",
    }.items():
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(UserError, match=told):
            emoji(drawings=str(tmp_path / "list.txt")).setup()
    with pytest.raises(UserError, match="multiple of 8"):
        emoji(resolution=36)
    (tmp_path / "41.png").write_bytes(b"no picture")
    (tmp_path / "list.txt").write_text("41 a")
    with pytest.raises(UserError, match="cannot be read"):
        emoji(font=str(tmp_path), drawings=str(tmp_path / "list.txt")).setup()


def test_every_word_has_a_place() -> None:
    assert set(SIZES) == {"large", "small"} and len(COMBINATIONS) == len(BACKGROUNDS) * len(SIZES) * len(POSITIONS)
