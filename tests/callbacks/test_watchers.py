"""Throughput, health, progress and prediction files."""

import functools
import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from tiny import BATCH, TinyData, TinyDistiller, trainer

from fastgen.callbacks import EMA, Checkpoint, Health, Progress, SampleGrid, Throughput, WriteSamples
from fastgen.callbacks.health import Health as HealthCallback
from fastgen.storage.files import load_tensors


def test_throughput(tmp_path, clock):
    class Steady(Callback):
        def on_train_batch_start(self, trainer, method, batch, batch_idx):
            clock.now += 0.25

    class SlowGrid(SampleGrid):
        def draw(self, trainer, method):
            with self.side_work():
                clock.now += 100

    logger = CSVLogger(tmp_path, name="", version="run")
    callbacks = [Steady(), SlowGrid(every_n_steps=2), Throughput(every_n_steps=5)]
    loop = trainer(tmp_path, callbacks, max_steps=15, logger=logger)
    loop.fit(TinyDistiller(critic_every=2), TinyData())
    summary = json.loads((tmp_path / "run" / "throughput.json").read_text())
    assert (summary["student_updates"], summary["samples"]) == (15, 30 * BATCH)
    assert summary["training_seconds"] == 7.5  # the pictures do not count
    assert summary["seconds_per_update"] == 0.5  # two batches
    assert summary["samples_per_second"] == 4 * BATCH
    assert summary["student_updates_per_second"] == 2.0
    assert 0.1 < summary["peak_memory_gib"] < 64
    assert loop.callback_metrics["throughput/samples_per_second"] == 4 * BATCH
    assert "throughput/peak_memory_gib" in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]


def test_health_sees_an_explosion_once(tmp_path):
    method = TinyDistiller()
    method.magnify = {9: 1e3, 11: 1e3}
    loop = trainer(tmp_path, [Health(every_n_steps=1)], max_steps=14)
    with pytest.warns(UserWarning, match=r"update 10: student/grad_norm is .* times its median; set gradient_clip"):
        loop.fit(method, TinyData())
    lines = [json.loads(line) for line in (tmp_path / "health.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "explosion of student/grad_norm"]
    assert found[0]["student_updates"] == 10


def test_health_counts_skipped_updates(tmp_path):
    method = TinyDistiller()
    method.spoiled = {3, 5, 7}
    health = Health(every_n_steps=5)
    with pytest.warns(UserWarning, match="updates were skipped") as told:
        trainer(tmp_path, [health], max_steps=15).fit(method, TinyData())
    assert health.verdict() == "skipped updates (2x)"
    assert sum("skipped" in str(warning.message) for warning in told) == 1
    steps = [json.loads(line)["student_updates"] for line in (tmp_path / "health.jsonl").read_text().splitlines()]
    assert steps == [5, 10]


def test_healthy_run(tmp_path):
    health = Health(every_n_steps=1)
    trainer(tmp_path, [health], max_steps=20).fit(TinyDistiller(lr=0.01), TinyData())
    assert health.verdict() == "healthy"
    assert not (tmp_path / "health.jsonl").exists()


def watched(tmp_path, every_n_steps=2, max_steps=12, schedule=None, **optimizer):
    """The verdict on a run whose roles have this optimizer; the student's may have a schedule."""
    method, health = TinyDistiller(), Health(every_n_steps=every_n_steps)
    for role in ("student", "critic"):
        method.optimizer_factories[role] = functools.partial(torch.optim.Adam, **optimizer)
    method.lr_scheduler_factories["student"] = schedule
    trainer(tmp_path, [health], max_steps=max_steps).fit(method, TinyData())
    return health.verdict()


@pytest.mark.filterwarnings("ignore:Health")
def test_health_knows_that_nothing_moves(tmp_path):
    assert sorted(watched(tmp_path, lr=0.0).split(", ")) == [
        "nothing moves (critic) (4x)",
        "nothing moves (student) (4x)",
    ]
    assert "nothing moves (student)" in watched(tmp_path, lr=1e-12), "it vanishes in rounding"
    assert "nothing moves (student)" in watched(tmp_path, lr=0.0, every_n_steps=10), "one reading, at the end"


@pytest.mark.filterwarnings("ignore:Health")
def test_health_knows_that_the_loss_rises(tmp_path):
    said = watched(tmp_path, lr=1e-3, maximize=True)
    assert "loss rises (student)" in said and "loss rises (critic)" in said


@pytest.mark.parametrize("lr", [1e-6, 1e-3])
@pytest.mark.parametrize("betas", [(0.0, 0.999), (0.9, 0.999)])
def test_good_runs_move_downhill(lr, betas, tmp_path):
    def warm_up(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: min(1.0, update / 2))

    assert watched(tmp_path, lr=lr, betas=betas, every_n_steps=1, max_steps=30, schedule=warm_up) == "healthy"


def reading(gap=0.1, std=0.5, teacher_gap=0.2):
    return {"health/score_gap": gap, "health/sample_std": std, "health/teacher_gap": teacher_gap}


def kinds(health, values, step=1000, bad=0):
    return [kind for kind, _ in health.findings(values, bad, step)]


def test_health_findings():
    health = HealthCallback(every_n_steps=10)
    for _ in range(5):
        assert kinds(health, reading()) == []
    assert kinds(health, reading(std=0.2)) == []
    assert kinds(health, reading(std=0.1)) == ["collapse"]
    for name, logged in (("gap", "score_gap"), ("std", "sample_std"), ("teacher_gap", "teacher_gap")):
        assert kinds(health, reading(**{name: float("nan")})) == [f"health/{logged} is not finite"]
    assert kinds(health, reading(gap=3.0)) == ["explosion of health/score_gap"]
    assert kinds(health, reading(teacher_gap=9.0)) == ["explosion of health/teacher_gap"]
    assert kinds(health, reading(gap=0.0)) == ["idle critic"]
    assert kinds(health, reading(gap=0.0), step=100) == []
    assert kinds(health, reading(), bad=1) == ["skipped updates"]
    assert kinds(health, reading(), bad=1) == []


def test_progress_counts_student_updates(tmp_path, capsys):
    method = TinyDistiller(critic_every=3)
    method.spoiled = {5}
    loop = trainer(
        tmp_path,
        [Progress(), Checkpoint(every_n_steps=0)],
        max_steps=4,
        limit_val_batches=2,
        val_check_interval=6,
        check_val_every_n_epoch=None,
    )
    loop.fit(method, TinyData())
    text = capsys.readouterr().err
    assert "4/4" in text and "critic/fit" in text and "student/match" in text and "skipped 1" in text
    assert "grad_norm" not in text
    resumed = trainer(tmp_path / "b", [Progress()], max_steps=6)
    last = tmp_path / "checkpoints" / "last.ckpt"
    resumed.fit(TinyDistiller(critic_every=3), TinyData(), ckpt_path=last, weights_only=True)
    text = capsys.readouterr().err
    assert "4/6" in text and "6/6" in text


def test_predictions_are_named_by_seed(tmp_path):
    method = TinyDistiller((3, 4, 4))
    trainer(tmp_path, [WriteSamples(), EMA(), Progress()]).predict(method, TinyData((3, 4, 4), batch_size=2))
    files = sorted((tmp_path / "samples").iterdir())
    assert [file.name for file in files] == [f"{seed:06d}.png" for seed in range(5)]
    image = method.sample([3], {"label": torch.tensor([3])})[0]
    expected = ((image + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(Image.open(files[3])), expected)


def test_predicted_points_are_one_file(tmp_path):
    method = TinyDistiller()
    out = tmp_path / "here"
    trainer(tmp_path, [WriteSamples(out=str(out))]).predict(method, TinyData(batch_size=2))
    tensors, _ = load_tensors(out / "points.safetensors")
    assert tensors["seed"].tolist() == [0, 1, 2, 3, 4]
    assert tensors["samples"].shape == (5, 2)
    torch.testing.assert_close(tensors["samples"][4:], method.sample([4], {"label": torch.tensor([0])}))
