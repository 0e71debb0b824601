"""What is read of a picture is what a viewer shows on a white page, whatever kind of file holds it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastgen.data.images import ImageFolder, ImageReader
from fastgen.data.pixels import open_picture, pictures_below
from fastgen.errors import UserError

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def colour(path: Path, x: int = 0, y: int = 0) -> tuple[int, ...]:
    """One pixel of the picture as RGB."""
    picture = open_picture(path)
    assert picture.mode == "RGB"
    return picture.getpixel((x, y))  # type: ignore[return-value]


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
@pytest.mark.parametrize(("alpha", "expected"), [(0, WHITE), (255, RED), (51, (255, 204, 204))])
def test_transparency_shows_white(tmp_path: Path, suffix: str, alpha: int, expected: tuple[int, ...]) -> None:
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = save(Image.new("RGBA", (4, 4), (*RED, alpha)), tmp_path / f"a.{suffix}", **options)
    assert colour(path) == expected
    grey = open_picture(path, "grey")
    assert grey.mode == "L"
    if alpha == 0:
        assert grey.getpixel((0, 0)) == 255


def test_every_kind_of_transparency(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *GREEN])
    palette.putpixel((1, 0), 1)
    for name in ("palette.png", "palette.gif"):
        path = save(palette, tmp_path / name, transparency=0)
        assert [colour(path, 0), colour(path, 1)] == [WHITE, GREEN]
    partly = save(palette, tmp_path / "partly.png", transparency=bytes([0, 127]))
    assert colour(partly, 0) == WHITE and colour(partly, 1) == (128, 255, 128)
    assert colour(save(Image.new("LA", (2, 2), (0, 0)), tmp_path / "grey.png")) == WHITE
    assert colour(save(Image.new("RGB", (2, 2), RED), tmp_path / "key.png", transparency=RED)) == WHITE
    assert colour(save(Image.new("L", (2, 2), 7), tmp_path / "greykey.png", transparency=7)) == WHITE
    deep = Image.fromarray(np.array([[500, 40000]], dtype=np.uint16))
    deep = save(deep, tmp_path / "deepkey.png", transparency=500)  # type: ignore[assignment]
    assert [colour(deep, 0)[0], colour(deep, 1)[0]] == [255, round(40000 / 257)]  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 1000, 32768, 65535]], dtype=np.uint16)
    path = save(Image.fromarray(values), tmp_path / f"a.{suffix}")
    assert np.asarray(open_picture(path, "grey")).tolist() == [[0, 4, 128, 255]]
    assert np.asarray(open_picture(path))[..., 1].tolist() == [[0, 4, 128, 255]]


def test_tiff_says_what_is_white_and_how_many_bits_count(tmp_path: Path) -> None:
    values = np.array([[0, 65535]], dtype=np.uint16)
    inverted = save(Image.fromarray(values), tmp_path / "inverted.tiff", tiffinfo={262: 0})
    assert np.asarray(open_picture(inverted, "grey")).tolist() == [[255, 0]]


@pytest.mark.parametrize(("mode", "said"), [("F", "floating-point numbers"), ("I", "32-bit integers")])
def test_values_without_a_scale_are_refused(tmp_path: Path, mode: str, said: str) -> None:
    path = save(Image.new(mode, (4, 4), 1), tmp_path / "a.tiff")
    with pytest.raises(UserError, match=f"{said} of unknown range"):
        open_picture(path)


def test_other_modes(tmp_path: Path) -> None:
    assert colour(save(Image.new("1", (4, 4), 1), tmp_path / "bit.png")) == WHITE
    red = colour(save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "ink.jpg", quality=100))
    assert all(abs(a - b) < 12 for a, b in zip(red, RED, strict=True))
    assert colour(save(Image.new("L", (4, 4), 9), tmp_path / "grey.png")) == (9, 9, 9)


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 4), RED)
    image.putpixel((0, 0), GREEN)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    for name in ("a.png", "a.tiff"):
        path = save(image, tmp_path / name, exif=exif)
        assert open_picture(path).size == (4, 2) and colour(path, 3, 0) == GREEN


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_the_first_of_several_frames_is_taken(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN)]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert colour(tmp_path / f"a.{suffix}") == RED


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    save(Image.new("RGB", (4, 4), RED), tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert colour(tmp_path / "a.jpg") == RED
    (tmp_path / "b.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="cannot identify"):  # Pillow would run Ghostscript
        open_picture(tmp_path / "b.png")


def damaged(folder: Path) -> list[Path]:
    """A file of every kind, cut short, with flipped bytes and with bytes that mean nothing."""
    found = []
    noise = np.random.default_rng(0)
    whole = Image.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "webp", "bmp", "tiff", "gif"):
        data = save(whole, folder / f"whole.{suffix}").read_bytes()
        (folder / f"whole.{suffix}").unlink()
        cuts = [data[: int(len(data) * share)] for share in (0.0, 0.02, 0.2, 0.5, 0.9)]
        for i, content in enumerate([*cuts, noise.bytes(200), b"\0" * 200, data[:20] + noise.bytes(200)]):
            found.append(folder / f"{i}.{suffix}")
            found[-1].write_bytes(content)
    return found


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    refused = 0
    for path in damaged(tmp_path):
        try:
            open_picture(path)
        except UserError as error:
            refused += 1
            assert path.name in str(error) and str(error).endswith(".") and "\n" not in str(error)
    assert refused > 40


def test_other_causes_have_their_own_mend(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    for name, said in (
        ("folder.png", "is a folder"),
        ("loop.png", "leads to itself"),
        ("gone.png", "does not exist"),
        ("pipe.png", "no ordinary file"),
    ):
        with pytest.raises(UserError, match=said):
            open_picture(tmp_path / name)
    assert [path.name for path in pictures_below(tmp_path)] == ["gone.png", "loop.png", "pipe.png"]


def test_bombs_and_ribbons_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.new("L", (40, 40)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="decompression bomb"):
        open_picture(path)
    monkeypatch.undo()
    ribbon = save(Image.new("L", (60_000, 1)), tmp_path / "ribbon.png")
    with pytest.raises(UserError, match="too narrow"):
        ImageReader(512)(ribbon)


def test_links_to_class_folders_are_followed_and_loops_refused(tmp_path: Path) -> None:
    save(Image.new("L", (8, 8)), (tmp_path / "elsewhere.png"))
    (tmp_path / "data").mkdir()
    (tmp_path / "cats").mkdir()
    save(Image.new("L", (8, 8)), tmp_path / "cats" / "a.png")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "cats")
    data = ImageFolder(str(tmp_path / "data"), 8, annotation="folders", held_out_fraction=0.0)
    assert data.label_names == ["cat"]
    (tmp_path / "cats" / "back").symlink_to(tmp_path / "cats")
    with pytest.raises(UserError, match=r"back' is a link to a folder that it lies in"):
        pictures_below(tmp_path / "data")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    good = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    with open(good, "wb") as file:
        Image.new("L", (8, 8), 3).save(file, format="PNG")
    data = ImageFolder(str(tmp_path), 8, held_out_fraction=0.0, batch_size=1)
    assert data.reference()["samples"].eq(3).all()
    with open(good, "wb") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"caf\\udce9\.png' cannot be read") as caught:
        data.reference()
    assert str(caught.value).encode()


@pytest.mark.parametrize("labels", [["²", "1"], ["1" * 5000, "2"], ["01", "1", "+1"], ["-3", "10", "9"]])
def test_labels_that_look_like_numbers(tmp_path: Path, labels: list[str]) -> None:
    for i in range(len(labels)):
        save(Image.new("L", (8, 8)), tmp_path / f"{i}.png")
    (tmp_path / "m.csv").write_text("file_name,label\n" + "".join(f"{i}.png,{x}\n" for i, x in enumerate(labels)))
    data = ImageFolder(str(tmp_path), 8, annotation="m.csv", held_out_fraction=0.0, color="grey")
    numeric = labels == ["-3", "10", "9"]
    assert data.label_names == (["-3", "9", "10"] if numeric else sorted(labels))
    assert torch.equal(data.reference()["samples"], torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8))
