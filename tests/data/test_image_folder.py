"""Image folders: conditions, cropping, the split, and every way in which a folder can be wrong."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgen.data import shapes
from fastgen.data.images import ImageFolder, ImageReader
from fastgen.errors import UserError


def write(path: Path, value: int | tuple[int, int, int] = 128, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "L" if isinstance(value, int) else "RGB"
    Image.new(mode, size, value).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(40):
        write(tmp_path / ("cat" if i % 2 else "ant") / f"{i:02d}.png", 6 * i)
    return tmp_path


def all_batches(data: ImageFolder) -> list[dict]:
    count = -(-data.sources[0].size // data.batch_size)
    return list(itertools.islice(iter(data.train_dataloader()), count))


def test_class_folders(folder: Path) -> None:
    data = ImageFolder(str(folder), 8, annotation="folders", color="grey", held_out_fraction=0.25, batch_size=5)
    assert data.label_names == ["ant", "cat"] and data.num_classes == 2
    for batch in all_batches(data):
        value = ((batch["x0"][:, 0, 0, 0] + 1) * 127.5 / 6).round().int()
        assert batch["x0"].shape == (5, 1, 8, 8)
        assert batch["condition"]["label"].tolist() == (value % 2).tolist()
    train, validation, test = data.sources
    assert train.size + validation.size + test.size == 40 and 3 <= validation.size + test.size <= 18
    assert min(validation.size, test.size) > 0
    reference = data.reference()
    assert reference["samples"].shape == (train.size, 1, 8, 8) and reference["samples"].dtype == torch.uint8
    assert len(reference["label"]) == train.size
    limited = ImageFolder(str(folder), 8, reference_count=3)
    assert len(limited.reference()["samples"]) == 3 and "label" not in limited.reference()


def test_the_split_does_not_move_when_files_are_added(folder: Path) -> None:
    def held_out() -> set[str]:
        parts = ImageFolder(str(folder), 8, held_out_fraction=0.3).sources[1:]
        return {(number, entry.name) for number, part in enumerate(parts) for entry in part.entries}

    before = held_out()
    write(folder / "bee" / "new.png")
    assert {(number, name) for number, name in held_out() if name != "bee/new.png"} == before


def test_captions_next_to_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"a picture of {name}\n")
    data = ImageFolder(str(tmp_path), 8, annotation="sidecar", held_out_fraction=0.0, batch_size=2)
    (batch,) = all_batches(data)
    assert sorted(batch["condition"]["prompt"]) == ["a picture of a", "a picture of b"]
    assert data.evaluation_conditions([0, 1, 2])["prompt"] == ["a picture of a", "a picture of b", "a picture of a"]
    (tmp_path / "b.txt").unlink()
    with pytest.raises(UserError, match=r"b\.png' has no caption"):
        ImageFolder(str(tmp_path), 8, annotation="sidecar").setup()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("meta.csv", "file_name,label\nx/a.png,10\nb.png,9\n"),
        ("meta.jsonl", '{"file_name": "x/a.png", "label": 10}\n{"file_name": "b.png", "label": 9}\n'),
    ],
)
def test_metadata_labels(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path / "x" / "a.png", 0)
    write(tmp_path / "b.png", 255)
    (tmp_path / name).write_text(text)
    data = ImageFolder(str(tmp_path), 8, annotation=name, held_out_fraction=0.0, batch_size=2)
    (batch,) = all_batches(data)
    assert data.label_names == ["9", "10"]
    assert batch["condition"]["label"].tolist() == [1 if x < 0 else 0 for x in batch["x0"][:, 0, 0, 0]]


def test_metadata_captions_and_its_mistakes(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "m.csv").write_text('file_name,text\na.png,"one, two"\n')
    data = ImageFolder(str(tmp_path), 8, annotation="m.csv", held_out_fraction=0.0)
    assert data.evaluation_conditions([0])["prompt"] == ["one, two"]
    (tmp_path / "m.csv").write_text("file_name,words\na.png,x\n")
    with pytest.raises(UserError, match="neither a 'text' nor a 'label'"):
        ImageFolder(str(tmp_path), 8, annotation="m.csv").setup()
    (tmp_path / "m.csv").write_text("file_name,text\na.png,x\nmissing.png,y\n")
    broken = ImageFolder(str(tmp_path), 8, annotation="m.csv", held_out_fraction=0.0, batch_size=2)
    with pytest.raises(UserError, match=r"missing\.png' does not exist"):
        all_batches(broken)


def test_resize_keeps_the_centre_and_the_aspect(tmp_path: Path) -> None:
    image = np.zeros((20, 60, 3), dtype=np.uint8)
    image[:, 20:40] = (255, 0, 0)
    Image.fromarray(image).save(tmp_path / "wide.png")
    pixels = ImageReader(10)(tmp_path / "wide.png")
    assert pixels.shape == (3, 10, 10)
    assert (pixels[0, :, 2:-2] >= 254).all() and (pixels[1:] == 0).all()
    assert ImageReader(10, "grey")(tmp_path / "wide.png").shape == (1, 10, 10)
    assert ImageReader(32)(tmp_path / "wide.png").shape == (3, 32, 32)


def test_the_largest_part_of_the_shape_is_kept(tmp_path: Path) -> None:
    wide, tall = np.zeros((40, 100, 3), dtype=np.uint8), np.zeros((100, 40, 3), dtype=np.uint8)
    wide[:, :10] = wide[:, 90:] = tall[:10] = tall[90:] = 255  # what goes if the shape is 2:1
    for name, image in (("wide", wide), ("tall", tall)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    for reader, name in (
        (ImageReader((20, 40)), "wide"),
        (ImageReader((40, 20)), "tall"),
        (ImageReader((80, 160)), "wide"),
    ):
        pixels = reader(tmp_path / f"{name}.png")
        assert pixels.shape == (3, reader.height, reader.width)
        assert (pixels < 64).all(), name  # the filter reaches over the edge, by less than a pixel of the picture
    assert (ImageReader((8, 20))(tmp_path / "wide.png")[:, :, [0, -1]] > 250).all()  # 2:5 is the whole picture
    assert (ImageReader((20, 40))(tmp_path / "tall.png") == 0).all()  # all of its width, the middle fifth of its height


def test_exact_sizes_may_differ_along_the_axes(tmp_path: Path) -> None:
    write(tmp_path / "a.png", size=(16, 8))
    data = ImageFolder(str(tmp_path), height=8, width=16, resize=False, held_out_fraction=0.0, batch_size=1)
    assert all_batches(data)[0]["x0"].shape == (1, 3, 8, 16)
    turned = ImageFolder(str(tmp_path), height=16, width=8, resize=False, held_out_fraction=0.0, batch_size=1)
    with pytest.raises(UserError, match="16x8 pixels, not 8x16"):
        all_batches(turned)


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ({}, "no size is given; give resolution"),
        ({"height": 8}, "height is given without width"),
        ({"resolution": 8, "height": 8, "width": 8}, "give it or those two, not both"),
        ({"height": 8, "width": 0}, "ImageFolder: width must be an integer from 1"),
    ],
)
def test_sizes_are_given_in_one_way(size: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ImageFolder("pictures", **size)


def warnings_of(data: ImageFolder) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.setup()
    return [str(warning.message) for warning in caught]


def test_crops_that_lose_a_third_of_many_pictures_are_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(8):
        write(tmp_path / f"{i}.png", size=(8, 8))
    options = {"resolution": 8, "held_out_fraction": 0.0}
    write(tmp_path / "wide.png", size=(13, 8))
    assert not warnings_of(ImageFolder(str(tmp_path), **(options | {"resolution": None}), height=8, width=12))
    assert len(warnings_of(ImageFolder(str(tmp_path), **options))) == 1
    write(tmp_path / "8.png", size=(8, 8))
    assert not warnings_of(ImageFolder(str(tmp_path), **options))  # one of ten is not many
    write(tmp_path / "wider.png", size=(16, 8))
    (tmp_path / "broken.png").write_text("no picture")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (8, 14)).save(tmp_path / "turned.jpg", exif=exif)
    (line,) = warnings_of(ImageFolder(str(tmp_path), **options))
    assert "\n" not in line and "from 3 of 12 images" in line and "such as one of 14x8" in line
    assert "data.height and data.width" in line
    assert not warnings_of(ImageFolder(str(tmp_path), resize=False, **options))
    monkeypatch.setattr(shapes, "LOOKED_AT", 6)
    (line,) = warnings_of(ImageFolder(str(tmp_path), height=8, width=40, held_out_fraction=0.0))
    assert "from 6 of 6 images" in line


def corrupt(folder: Path) -> list[str]:
    whole = (folder / "ant" / "00.png").read_bytes()
    (folder / "ant" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cat" / "text.jpg").write_text("not an image")
    (folder / "cat" / "empty.webp").write_bytes(b"")
    return ["ant/cut.png", "cat/text.jpg", "cat/empty.webp"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_corrupt_image_names_itself(folder: Path, num_workers: int) -> None:
    (folder / "ant" / "cut.png").write_bytes((folder / "ant" / "00.png").read_bytes()[:40])
    data = ImageFolder(str(folder), 8, held_out_fraction=0.0, batch_size=4, num_workers=num_workers)
    with pytest.raises(UserError, match=r"cut\.png' cannot be read") as caught:
        all_batches(data)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_corrupt_images_can_be_skipped_and_are_counted(folder: Path) -> None:
    whole = ImageFolder(str(folder), 8, color="grey", batch_size=7)
    expected = [batch["x0"] for batch in all_batches(whole)]
    bad = corrupt(folder)
    for num_workers in (0, 2):
        data = ImageFolder(str(folder), 8, color="grey", batch_size=7, on_error="skip", num_workers=num_workers)
        with pytest.warns(UserWarning, match="Left out 3 of 43 images"):
            data.setup()
        assert data.skipped == 3
        assert not {entry.name for source in data.sources for entry in source.entries} & set(bad)
        got = [batch["x0"] for batch in all_batches(data)]
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        ImageFolder(str(tmp_path / "none"), 8).setup()
    with pytest.raises(UserError, match="holds no image"):
        ImageFolder(str(tmp_path), 8).setup()
    write(tmp_path / "a.png", size=(9, 8))
    with pytest.raises(UserError, match="not a folder"):
        ImageFolder(str(tmp_path / "a.png"), 8).setup()
    with pytest.raises(UserError, match="lies in no class folder"):
        ImageFolder(str(tmp_path), 8, annotation="folders").setup()
    wrong_size = ImageFolder(str(tmp_path), 8, resize=False, held_out_fraction=0.0, batch_size=1)
    with pytest.raises(UserError, match="9x8 pixels, not 8x8"):
        all_batches(wrong_size)
    with pytest.raises(UserError, match="No image of"):
        ImageFolder(str(tmp_path), 8, resize=False, on_error="skip").setup()
    with pytest.raises(UserError, match="held_out_fraction"):
        ImageFolder(str(tmp_path), 8, held_out_fraction=1.5)


def test_black_is_minus_one_and_white_is_one(tmp_path: Path) -> None:
    for i, value in enumerate((0, 255)):
        write(tmp_path / f"{i}.png", value)
    data = ImageFolder(str(tmp_path), 8, held_out_fraction=0.0, batch_size=2)
    assert {float(value) for value in next(iter(data.train_dataloader()))["x0"].unique()} == {-1.0, 1.0}
