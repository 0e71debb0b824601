import numpy as np
import pytest
import torch
from PIL import Image

from fastgen.errors import UserError
from fastgen.pictures.grids import CAPTION_SIZE, GAP, grid, save_samples, scatter, tile
from fastgen.pictures.pixels import to_uint8
from fastgen.storage.files import load_tensors


def checker(count, size=8):
    """Image k has the grey value k / count everywhere, except one white pixel at (0, 0)."""
    images = (2 * torch.arange(count) / count - 1)[:, None, None, None].expand(count, 1, size, size).clone()
    images[:, :, 0, 0] = 1.0
    return images


def test_tiles_show_every_pixel_enlarged():
    images = checker(5)
    canvas = tile(images, columns=3)
    cell = 48 + GAP  # 8 pixels times 6
    assert canvas.shape == (2 * cell - GAP, 3 * cell - GAP, 3)
    for k in range(5):
        top, left = (k // 3) * cell, (k % 3) * cell
        assert canvas[top : top + 6, left : left + 6].eq(255).all()
        assert canvas[top + 6 : top + 48, left + 6 : left + 48].eq(round((k / 5) * 255)).all()
    assert canvas[48:50].eq(255).all() and canvas[cell:, 2 * cell :].eq(255).all()


def test_large_images_keep_their_size_and_colour():
    images = torch.zeros(2, 3, 50, 60)
    images[1, 0] = 1.0
    canvas = tile(images, columns=2)
    assert canvas.shape == (50, 60 + GAP + 60, 3)
    assert canvas[10, 100].tolist() == [255, 128, 128]


def test_grid_puts_blocks_under_readable_captions():
    picture = np.asarray(grid([checker(4), checker(4)], columns=4, captions=["teacher, 35 calls", "student, 1 call"]))
    line = CAPTION_SIZE + 6
    assert picture.shape == (2 * (48 + line) + 2 * GAP, 4 * 50 - GAP, 3)
    assert (picture[:line] < 100).sum() > 100  # dark letters
    first, second = picture[line : line + 48], picture[2 * line + 48 + 2 * GAP :]
    assert np.array_equal(first, second)
    assert np.array_equal(first[:48, :198], tile(checker(4), 4).numpy())


def test_long_captions_are_not_cut():
    short, long = (grid([checker(1)], 1, [text]) for text in ("a", "a caption much wider than one small image"))
    assert short.width == 48 and long.width > 200


def test_scatter_draws_points_where_they_are():
    cloud = torch.tensor([[1.0, 1.0]]).repeat(50, 1)
    reference = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    picture = np.asarray(scatter({"student": cloud, "teacher": -cloud}, reference)).astype(int)
    blue = (picture[..., 2] - picture[..., 0]) > 80
    rows, columns = np.nonzero(blue)
    left = columns < picture.shape[1] // 2
    assert left.any() and (~left).any()
    assert rows[left].mean() < picture.shape[0] / 2 < rows[~left].mean()


def test_files(tmp_path):
    images = checker(3)
    assert save_samples(images, tmp_path / "a.png", columns=3) == tmp_path / "a.png"
    assert Image.open(tmp_path / "a.png").size == (148, 48)
    save_samples(images, tmp_path / "folder", names=[7, 8, 123])
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["000007.png", "000008.png", "000123.png"]
    single = np.asarray(Image.open(tmp_path / "folder" / "000008.png"))
    assert single.shape == (8, 8, 3) and single[5, 5, 0] == 85
    points = torch.randn(4, 2)
    save_samples(points, tmp_path / "points", names=[4, 5, 6, 7])
    tensors, _ = load_tensors(tmp_path / "points" / "points.safetensors")
    assert torch.equal(tensors["samples"], points) and tensors["seed"].tolist() == [4, 5, 6, 7]


def test_mistakes_are_told(tmp_path):
    with pytest.raises(UserError, match=r"\(2, 4, 8, 8\)"):
        grid([torch.zeros(2, 4, 8, 8)])
    with pytest.raises(UserError, match="picture format"):
        save_samples(checker(2), tmp_path / "a.xyz")


def clips(count=2, frames=11):
    """Frame f of clip k has the grey value 10 f + 100 k everywhere."""
    grey = 10.0 * torch.arange(frames) + 100.0 * torch.arange(count)[:, None]
    return (grey / 127.5 - 1)[:, None, :, None, None].expand(count, 3, frames, 64, 48)


def test_a_grid_of_videos_shows_frames_from_first_to_last():
    picture = np.asarray(grid([clips()]))
    assert picture.shape == (64 + GAP + 64, 8 * 48, 3)
    greys = [picture[row, 48 * i + 5, 0] for row in (5, 64 + GAP + 5) for i in range(8)]
    frames = [0, 1, 3, 4, 6, 7, 9, 10]
    assert greys == [10 * f for f in frames] + [100 + 10 * f for f in frames]


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_videos_play(suffix, tmp_path):
    path = save_samples(clips(), tmp_path / f"grid{suffix}", columns=2)
    with Image.open(path) as played:
        assert played.n_frames == 11 and played.size == (48 + GAP + 48, 64)
        for frame in range(11):
            played.seek(frame)
            shown = np.asarray(played.convert("RGB")).astype(int)
            assert abs(shown[:, :48] - 10 * frame).max() <= 4
            assert abs(shown[:, 48 + GAP :] - 100 - 10 * frame).max() <= 4
    folder = save_samples(clips(), tmp_path / "folder", names=[7, 9])
    assert sorted(file.name for file in folder.iterdir()) == ["000007.webp", "000009.webp"]
    with Image.open(folder / "000009.webp") as played:
        played.seek(10)
        assert played.n_frames == 11 and abs(np.asarray(played.convert("RGB")).astype(int) - 200).max() <= 4


def test_what_is_no_picture_is_magenta_in_a_grid_and_refused_in_files(tmp_path):
    images = torch.zeros(3, 1, 48, 48)
    images[1, 0, 5, 5] = float("nan")
    drawn = tile(images, 3)
    assert bool((drawn[:, 50:98] == torch.tensor([255, 0, 255], dtype=torch.uint8)).all())
    assert bool((drawn[:, :48] == 128).all()) and bool((drawn[:, 100:] == 128).all())
    for target in ("grid.png", "folder"):
        with pytest.raises(UserError, match="1 of 3 samples hold values that are not finite"):
            save_samples(images, tmp_path / target)
    assert not list(tmp_path.iterdir())
    assert save_samples(images, tmp_path / "numbers.safetensors").exists()
    for value in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="not finite"):
            to_uint8(torch.full((2, 1, 4, 4), value))
    points = torch.randn(20, 2)
    points[3] = float("nan")
    scatter({"some": points, "none": points[3:4]})
    scatter({"none": points[3:4]})
