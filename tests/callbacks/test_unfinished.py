"""An evaluation that was killed goes on where it was and says what an uninterrupted one says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tiny import TinyData, TinyDistiller, trainer

from fastgen.callbacks import EMA, Checkpoint, Evaluate
from fastgen.checkpoints.seals import seal
from fastgen.errors import UserError
from fastgen.metrics import CombinedMetrics, FrechetDistance, ImageMetrics, KernelDistance, Pixels, VendiScore
from fastgen.metrics.base import SampleMetric
from fastgen.metrics.measuring import TEACHER_SEEDS
from fastgen.metrics.samples.frechet import frechet_distance, moments
from fastgen.storage.files import load_tensors

SHAPE = (1, 4, 4)


class Killed(Exception):
    """What a killed process would not even raise."""


class Watched(ImageMetrics):
    """Counts samples, and breaks after ``limit`` of them."""

    def __init__(self, limit=10**9):
        super().__init__(Pixels(2, 1))
        self.seen, self.limit = 0, limit

    def observe(self, samples, condition, seeds):
        if self.seen >= self.limit:
            raise Killed
        self.seen += len(samples)
        super().observe(samples, condition, seeds)


class NoImages(TinyData):
    """Data-free."""

    def reference(self):
        return None


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    method = TinyDistiller(SHAPE)
    trainer(folder, [EMA(), Checkpoint()], max_steps=3).fit(method, TinyData(SHAPE))
    return folder / "checkpoints" / "last.ckpt"


def test_run(folder, ckpt, suite, data=TinyData, command="test", logger=False, **options):
    options = {"count": 40, "batch_size": 6, "save_every_minutes": 0.0} | options
    callbacks = [EMA(), Evaluate(suite, **options)]
    loop = trainer(folder, callbacks, limit_val_batches=1, limit_test_batches=1, logger=logger)
    (numbers,) = getattr(loop, command)(TinyDistiller(SHAPE), data(SHAPE), ckpt_path=ckpt, weights_only=True)
    return {name: value for name, value in numbers.items() if name.startswith("eval/")}


test_run.__test__ = False


def files(folder):
    return sorted(folder.rglob("evaluation/*/*.safetensors"))


@pytest.mark.parametrize("data", [TinyData, NoImages])
@pytest.mark.parametrize("command", ["validate", "test"])
def test_resumed_equals_uninterrupted(tmp_path, ckpt, data, command):
    expected = test_run(tmp_path / "whole", ckpt, Watched(), data, command)
    assert not list(tmp_path.rglob("evaluation"))
    total = 40 * (3 + (data is NoImages))  # teacher, teacher once, student, and the teacher as reference
    seen = 0
    suites = [Watched(limit=23) for _ in range(20)]
    for suite in suites:
        try:
            numbers = test_run(tmp_path / "parts", ckpt, suite, data, command)
            break
        except Killed:
            assert files(tmp_path / "parts")
        finally:
            seen += suite.seen
    assert sum(suite.seen > 0 for suite in suites) >= 5
    assert numbers == expected  # to the last bit
    assert seen == total  # nothing was sampled twice
    assert not list(tmp_path.rglob("evaluation"))
    for whole, parts in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "parts"), strict=True):
        assert whole["values"] == parts["values"] and whole["role"] == parts["role"]


def test_another_folder_of_the_run_is_found(tmp_path, ckpt):
    """Loggers make a new folder for every command."""

    def logger():
        return CSVLogger(tmp_path, name="run")

    with pytest.raises(Killed):
        test_run(tmp_path, ckpt, Watched(limit=30), logger=logger())
    (tmp_path / "run" / "version_0" / "metrics.csv").touch()
    again = Watched()
    test_run(tmp_path, ckpt, again, logger=logger())
    assert again.seen == 3 * 40 - 30
    assert (tmp_path / "run" / "version_1" / "metrics.jsonl").exists()
    assert not list(tmp_path.rglob("evaluation"))


def test_other_weights_or_seeds_are_another_evaluation(tmp_path, ckpt):
    with pytest.raises(Killed):
        test_run(tmp_path, ckpt, Watched(limit=30))
    for options in ({"seed": 5}, {"count": 38}):
        suite = Watched()
        test_run(tmp_path, ckpt, suite, **options)
        assert suite.seen == 3 * options.get("count", 40)
    saved = torch.load(ckpt, weights_only=True)
    saved["state_dict"]["student.layer.bias"] += 1
    saved["state_dict"]["averages.ema.layer.bias"] += 1
    seal(saved)
    torch.save(saved, tmp_path / "other.ckpt")
    with pytest.raises(Killed):  # fills the teacher's rows and breaks in the student's
        test_run(tmp_path / "b", ckpt, Watched(limit=100))
    suite = Watched()
    test_run(tmp_path / "b", tmp_path / "other.ckpt", suite)
    assert suite.seen == 40  # only the student's were of no use


def test_a_damaged_file_is_measured_again(tmp_path, ckpt):
    with pytest.raises(Killed):
        test_run(tmp_path, ckpt, Watched(limit=30))
    (file,) = files(tmp_path)
    assert load_tensors(file)[0]["indices"].tolist() == list(range(30))
    file.write_bytes(file.read_bytes()[:100])
    suite = Watched()
    assert test_run(tmp_path, ckpt, suite) == test_run(tmp_path / "b", ckpt, Watched())
    assert suite.seen == 120


def test_a_short_evaluation_and_training_write_nothing(tmp_path, ckpt):
    with pytest.raises(Killed):
        test_run(tmp_path, ckpt, Watched(limit=30), save_every_minutes=5.0)
    with pytest.raises(Killed):
        test_run(tmp_path, ckpt, Watched(limit=30), save_every_minutes=None)
    with pytest.raises(Killed):
        evaluate = Evaluate(Watched(limit=30), count=40, batch_size=6, save_every_minutes=0.0)
        trainer(tmp_path, [EMA(), evaluate], max_steps=2).fit(TinyDistiller(SHAPE), TinyData(SHAPE))
    assert not list(tmp_path.rglob("evaluation"))


def test_sigterm_keeps_what_was_measured(tmp_path, ckpt, capsys):
    class Stopped(Watched):
        def observe(self, samples, condition, seeds):
            super().observe(samples, condition, seeds)
            if self.seen == 18:
                loops[-1].received = 15

    loops = []
    checkpoint = Checkpoint()
    loops.append(checkpoint.stop_signals)
    evaluate = Evaluate(Stopped(), count=40, batch_size=6, save_every_minutes=60.0)
    loop = trainer(tmp_path, [EMA(), checkpoint, evaluate], limit_test_batches=1)
    with pytest.raises(SystemExit) as stopped:
        loop.test(TinyDistiller(SHAPE), TinyData(SHAPE), ckpt_path=ckpt, weights_only=True)
    assert stopped.value.code == 143 and "same command again" in capsys.readouterr().err
    (file,) = files(tmp_path)
    assert load_tensors(file)[0]["indices"].tolist() == list(range(18))


# ---------------------------------------------------------------------- the teacher as reference


def test_data_free_methods_are_compared_with_the_teacher(tmp_path):
    method = TinyDistiller(SHAPE)
    suite = ImageMetrics(Pixels(2, 1), metrics=[FrechetDistance(), KernelDistance(), VendiScore()])
    evaluate = Evaluate(suite, count=50, batch_size=7, every_n_steps=2, seed=100)
    trainer(tmp_path, [EMA(), evaluate], max_steps=4).fit(method, NoImages(SHAPE))
    rows = rows_of(tmp_path)
    assert [row["role"] for row in rows] == ["teacher", "teacher", "average", "average"]
    assert {row["reference"] for row in rows} == {"teacher"}
    label = {"label": torch.arange(50) % 4}

    def features(seed, role):
        x = method.sample(list(range(seed, seed + 50)), label, role=role)
        return moments(Pixels(2, 1)(((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)))

    teacher = features(100 + TEACHER_SEEDS, "teacher")
    for row, role in ((rows[0], "teacher"), (rows[-1], "average")):
        expected = frechet_distance(*features(100, role), *teacher)
        assert row["values"]["frechet_to_teacher"] == pytest.approx(expected, rel=1e-6, abs=1e-10)
        assert set(row["values"]) == {"frechet_to_teacher", "kid_to_teacher", "vendi", "count", "reference_count"}


def test_without_teacher_and_data_there_is_one_sentence(tmp_path):
    method = TinyDistiller(SHAPE)
    method.factories = {"teacher": None, "student": method.factories["teacher"]}
    evaluate = Evaluate(ImageMetrics(Pixels(2, 1)), count=10, every_n_steps=1)
    with pytest.raises(UserError, match="no real images to compare with"):
        trainer(tmp_path, [EMA(), evaluate], max_steps=1).fit(method, NoImages(SHAPE))


def test_a_checkpoint_holds_no_metric(ckpt):
    names = torch.load(ckpt, weights_only=True)["state_dict"]
    assert names and all(name.split(".")[0] in {"student", "critic", "averages"} for name in names)
    method, evaluate = TinyDistiller(SHAPE), Evaluate(ImageMetrics(Pixels(2, 1)), count=10, every_n_steps=1)
    trainer(ckpt.parent / "b", [EMA(), evaluate, Checkpoint()], max_steps=2).fit(method, TinyData(SHAPE))
    with_metrics = torch.load(ckpt.parent / "b" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (
        set(with_metrics["state_dict"])
        == set(names)
        == set(method.state_dict()) - {name for name in method.state_dict() if name.startswith("teacher.")}
    )
    assert not any(isinstance(m, SampleMetric) for m in method.modules())


# ---------------------------------------------------------------------- ranks

PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_unfinished import NoImages, SHAPE, Watched
from tiny import TinyDistiller, trainer
from fastgen.callbacks import EMA, Evaluate
folder, ckpt, devices, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
evaluate = Evaluate(Watched(limit), count=41, batch_size=3, save_every_minutes=0.0)
strategy = "ddp" if devices > 1 else "auto"
loop = trainer(folder, [EMA(), evaluate], limit_test_batches=1, devices=devices, strategy=strategy)
loop.test(TinyDistiller(SHAPE), NoImages(SHAPE), ckpt_path=ckpt, weights_only=True)
"""


def run(folder, ckpt, devices, limit=10**9):
    program = folder / "program.py"
    program.write_text(PROGRAM.format(tests=str(Path(__file__).parent)))
    command = [sys.executable, program, folder / "run", ckpt, devices, limit]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=400)


@pytest.mark.distributed
@pytest.mark.parametrize("worlds", [(2, 1), (1, 2)])
def test_another_number_of_ranks_goes_on(tmp_path, ckpt, worlds):
    first, second = worlds
    assert run(tmp_path, ckpt, first, 12).returncode != 0
    kept = files(tmp_path)
    assert kept and {i for file in kept for i in load_tensors(file)[0]["indices"].tolist()} <= set(range(41))
    done = run(tmp_path, ckpt, second)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list(tmp_path.rglob("evaluation"))
    expected = test_run(tmp_path / "alone", ckpt, Watched(), NoImages, count=41, batch_size=3)
    reached = {f"eval/{name}": value for name, value in rows_of(tmp_path / "run")[-1]["values"].items()}
    assert reached == pytest.approx(expected, rel=1e-5, abs=1e-8)


# ---------------------------------------------------------------------- what suites are told


class Remembering(Watched):
    """Keeps what it is told about samples."""

    wants_teacher = 5

    def __init__(self):
        super().__init__()
        self.teacher, self.styles = {}, {}

    def remember_teacher(self, samples, seeds):
        self.teacher |= dict(zip(seeds, samples, strict=True))

    def observe(self, samples, condition, seeds):
        super().observe(samples, condition, seeds)
        self.styles |= dict(zip(seeds, condition["style"], strict=True))


class Grouped(TinyData):
    def evaluation_groups(self, indices):
        return {"style": [f"style {i % 3}" for i in indices]}


@pytest.mark.parametrize("combined", [False, True])
def test_suites_get_groups_and_the_teachers_samples_of_equal_noise(tmp_path, combined):
    suite, method = Remembering(), TinyDistiller(SHAPE)
    whole = CombinedMetrics([ImageMetrics(Pixels(1, 1), metrics=[VendiScore()]), suite]) if combined else suite
    evaluate = Evaluate(whole, count=10, batch_size=4, every_n_steps=1, seed=70)
    trainer(tmp_path, [EMA(), evaluate], max_steps=1).fit(method, Grouped(SHAPE))
    assert list(suite.teacher) == [70, 71, 72, 73, 74]
    expected = method.sample(list(suite.teacher), {"label": torch.arange(5) % 4}, role="teacher")
    torch.testing.assert_close(torch.stack(list(suite.teacher.values())), expected)
    assert suite.styles == {70 + i: f"style {i % 3}" for i in range(10)}
