import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tiny import TinyData, TinyDistiller, trainer, weights

from fastgen.callbacks import EMA, ConstantEMA, SampleGrid
from fastgen.pictures.grids import CAPTION_SIZE, GAP, tile

SHAPE = (1, 4, 4)


def test_files_appear_and_show_the_samples(tmp_path):
    method = TinyDistiller(SHAPE)
    shown = SampleGrid(every_n_steps=4, seeds=[3, 5, 9], columns=3, steps=[1, 2], teacher_steps=[1])
    trainer(tmp_path, [shown, EMA(rule=ConstantEMA(0.5))], max_steps=10).fit(method, TinyData(SHAPE))
    files = sorted(path.name for path in (tmp_path / "grids").iterdir())
    assert files == [f"step_{step:06d}.png" for step in (0, 4, 8, 10)]
    picture = np.asarray(Image.open(tmp_path / "grids" / "step_000010.png"))
    labels = {"label": torch.arange(3)}
    blocks = [(None, "teacher"), (1, "teacher"), (1, "average"), (2, "average")]
    line = CAPTION_SIZE + 6
    for k, (steps, role) in enumerate(blocks):
        top = k * (48 + line + 2 * GAP) + line
        expected = tile(method.sample([3, 5, 9], labels, steps, role), 3).numpy()
        assert np.array_equal(picture[top : top + 48, : expected.shape[1]], expected)
    start = np.asarray(Image.open(tmp_path / "grids" / "step_000000.png"))
    half, width = start.shape[0] // 2, 3 * (48 + GAP) - GAP
    assert np.array_equal(start[:half, :width], picture[:half, :width])  # the teacher does not change
    after = half + line  # below the caption, which names the update
    assert not np.array_equal(start[after : after + 48, :width], picture[after : after + 48, :width])


def test_points_are_scattered(tmp_path):
    trainer(tmp_path, [SampleGrid(0, seeds=40)], max_steps=3).fit(TinyDistiller(), TinyData())
    files = sorted(path.name for path in (tmp_path / "grids").iterdir())
    assert files == ["step_000000.png", "step_000003.png"]
    picture = np.asarray(Image.open(tmp_path / "grids" / "step_000003.png")).astype(int)
    blue = (picture[..., 2] - picture[..., 0]) > 80
    panels = np.array_split(blue, 3, axis=1)  # teacher, teacher once, student
    assert all(panel.sum() > 20 for panel in panels)


def test_pictures_go_to_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    trainer(tmp_path, [SampleGrid(2, seeds=4)], max_steps=4, logger=logger).fit(TinyDistiller(SHAPE), TinyData(SHAPE))
    assert (tmp_path / "run" / "grids" / "step_000002.png").exists()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [image.step for image in events.Images("samples")] == [0, 2, 4]


def test_training_does_not_notice(tmp_path):
    with_grid, without = TinyDistiller(SHAPE), TinyDistiller(SHAPE)
    trainer(tmp_path / "a", [SampleGrid(1, seeds=4)], max_steps=4).fit(with_grid, TinyData(SHAPE))
    trainer(tmp_path / "b", [], max_steps=4).fit(without, TinyData(SHAPE))
    one, other = weights(with_grid), weights(without)
    assert all(torch.equal(one[name], other[name]) for name in one)
