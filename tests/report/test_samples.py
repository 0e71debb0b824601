"""Samples of a report that are not plain images."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from fastgen.report.samples import keep


def test_videos_are_files_that_play(tmp_path: Path):
    videos = torch.linspace(-1, 1, 2 * 3 * 5 * 16 * 24).reshape(2, 3, 5, 16, 24)
    block = keep(videos, tmp_path, Path("samples/student-4"), "student", 4, [3, 8], ["a cat", "a dog"])
    assert block.files == ("samples/student-4/000003.webp", "samples/student-4/000008.webp")
    assert block.points == () and block.width == 24
    with Image.open(tmp_path / block.files[1]) as played:
        assert played.n_frames == 5 and played.size == (24, 16)
    assert keep(-videos, tmp_path, Path("other"), "student", 4, [3, 8], ["", ""]).digest != block.digest
