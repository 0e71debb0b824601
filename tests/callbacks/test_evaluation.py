import json

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from tiny import TinyData, TinyDistiller, TinySuite, trainer, weights

from fastgen.callbacks import EMA, Checkpoint, ConstantEMA, Evaluate
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.results.rows import table


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Drawing(TinyDistiller):
    """Uses the global generators, as dropout and augmentation do."""

    def student_loss(self, part):
        noise = torch.rand(())
        return {name: value * (1 + noise) for name, value in super().student_loss(part).items()}


def test_rows_values_and_ratios(tmp_path):
    method = TinyDistiller(critic_every=2)
    evaluate = Evaluate(TinySuite(), count=10, batch_size=4, every_n_steps=3, steps=[1, 2], seed=50)
    trainer(tmp_path, [evaluate, EMA(rule=ConstantEMA(0.5))], max_steps=7).fit(method, TinyData())
    rows = rows_of(tmp_path)
    assert [(r["student_updates"], r["role"], r["steps"], r["nfe"]) for r in rows] == [
        (3, "teacher", None, 3), (3, "teacher", 1, 1),
        (3, "average", 1, 1), (3, "average", 2, 2),
        (6, "average", 1, 1), (6, "average", 2, 2),
        (7, "average", 1, 1), (7, "average", 2, 2),
    ]  # fmt: skip
    labels = {"label": torch.arange(10) % 4}
    seeds = list(range(50, 60))
    for row in (*rows[:2], *rows[-2:]):
        expected = method.sample(seeds, labels, row["steps"], row["role"]).square().mean()
        assert row["values"]["size"] == pytest.approx(expected.item(), rel=1e-5)
        assert row["values"]["count"] == 10
        assert row["fingerprint"] == "tiny" and row["count"] == 10
    assert rows[-1]["ratio_to_teacher"] == pytest.approx(
        {"size": rows[-1]["values"]["size"] / rows[0]["values"]["size"]}
    )
    assert evaluate.suite.references == 1
    text = (tmp_path / "metrics.md").read_text().splitlines()
    assert len(text) == 2 + len(rows) and len({len(line) for line in text}) == 1


def test_the_last_update_is_measured_once(tmp_path):
    evaluate = Evaluate(TinySuite(), count=4, batch_size=4, every_n_steps=2, roles=["student"])
    trainer(tmp_path, [evaluate], max_steps=4).fit(TinyDistiller(), TinyData())
    assert [row["student_updates"] for row in rows_of(tmp_path) if row["role"] == "student"] == [2, 4]


def test_training_does_not_notice(tmp_path):
    def run(folder, evaluate):
        method = Drawing(critic_every=2)
        torch.manual_seed(5)
        trainer(folder, [EMA(), *evaluate], max_steps=6, limit_val_batches=0).fit(method, TinyData())
        return weights(method), {m: module.training for m, module in method.named_modules()}, torch.rand(2)

    suite = TinySuite()
    plain = run(tmp_path / "a", [])
    watched = run(tmp_path / "b", [Evaluate(suite, count=6, batch_size=4, every_n_steps=2)])
    assert all(torch.equal(plain[0][name], watched[0][name]) for name in plain[0])
    assert plain[1] == watched[1]
    assert torch.equal(plain[2], watched[2])


def test_numbers_reach_logger_and_monitors(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="run")
    method = TinyDistiller(critic_every=2)
    evaluate = Evaluate(TinySuite(), count=4, batch_size=4, every_n_steps=2, roles=["average", "student"])
    loop = trainer(tmp_path, [evaluate, EMA()], max_steps=4, logger=logger)
    loop.fit(method, TinyData())
    assert {"eval/average/size", "eval/student/size"} <= loop.callback_metrics.keys()
    header, *lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    column, step = header.split(",").index("eval/student/size"), header.split(",").index("step")
    cells = [line.split(",") for line in lines]
    logged = {int(cell[step]): float(cell[column]) for cell in cells if cell[column]}
    rows = {r["student_updates"]: r["values"]["size"] for r in rows_of(tmp_path / "run") if r["role"] == "student"}
    assert logged == pytest.approx(rows) and sorted(rows) == [2, 4]


def test_validation_losses_are_logged_at_student_updates(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="run")
    loop = trainer(
        tmp_path,
        [],
        max_steps=4,
        logger=logger,
        limit_val_batches=1.0,
        val_check_interval=4,
        check_val_every_n_epoch=None,
    )
    loop.fit(TinyDistiller(critic_every=2), TinyData())
    header, *lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    column, step = header.split(",").index("val/student/match"), header.split(",").index("step")
    cells = [line.split(",") for line in lines]
    assert [int(cell[step]) for cell in cells if cell[column]] == [2, 4]


def test_validate_and_test_measure_a_checkpoint(tmp_path, capsys):
    trainer(tmp_path, [EMA(), Checkpoint()], max_steps=5).fit(TinyDistiller(), TinyData())
    last = tmp_path / "checkpoints" / "last.ckpt"
    for name in ("validate", "test"):
        method = TinyDistiller()
        evaluate = Evaluate(TinySuite(), count=6, batch_size=6)
        loop = trainer(tmp_path / name, [EMA(), evaluate, Checkpoint()], limit_val_batches=1.0)
        (numbers,) = getattr(loop, name)(method, TinyData(), ckpt_path=last, weights_only=True)
        labels = {"label": torch.arange(6) % 4}
        expected = method.sample(list(range(10_000, 10_006)), labels).square().mean().item()
        assert numbers["eval/size"] == pytest.approx(expected, rel=1e-5)
        assert rows_of(tmp_path / name)[-1]["student_updates"] == 5
        assert "teacher" in capsys.readouterr().out


def test_teacher_is_measured_once_and_survives_resume(tmp_path):
    def callbacks(count=4):
        return [EMA(), Evaluate(TinySuite(), count=count, batch_size=4, every_n_steps=2), Checkpoint(every_n_steps=0)]

    first = callbacks()
    trainer(tmp_path / "a", first, max_steps=4).fit(TinyDistiller(), TinyData())
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    for count, teachers in ((4, 0), (6, 2)):
        again = callbacks(count)
        folder = tmp_path / f"b{count}"
        trainer(folder, again, max_steps=6).fit(TinyDistiller(), TinyData(), ckpt_path=last, weights_only=True)
        rows = rows_of(folder)
        assert sum(row["role"] == "teacher" for row in rows) == teachers
        assert rows[-1]["ratio_to_teacher"]["size"] > 0
        assert rows[-1]["training_seconds"] > rows_of(tmp_path / "a")[-1]["training_seconds"]


class RealData(TinyData):
    """Samples of the law of its labels."""

    def evaluation_samples(self, indices):
        return torch.stack([torch.full((2,), float(i)) for i in indices])


def test_real_samples_are_measured_once_beside_the_others(tmp_path):
    def evaluate(**options):
        return Evaluate(TinySuite(), count=10, batch_size=4, every_n_steps=2, teacher_once=False, **options)

    callbacks = [EMA(), evaluate(), Checkpoint(every_n_steps=0)]
    trainer(tmp_path, callbacks, max_steps=4).fit(TinyDistiller(), RealData())
    rows = rows_of(tmp_path)
    assert [row["role"] for row in rows] == ["real", "teacher", "average", "average"]
    squares = sum(i * i for i in range(10)) / 10
    assert rows[0]["values"] == {"size": squares, "count": 10} and rows[0]["nfe"] == rows[0]["student_updates"] == 0
    assert rows[0]["ratio_to_teacher"]["size"] == pytest.approx(squares / rows[1]["values"]["size"])
    resumed, last = trainer(tmp_path, [EMA(), evaluate()], max_steps=6), tmp_path / "checkpoints" / "last.ckpt"
    resumed.fit(TinyDistiller(), RealData(), ckpt_path=last, weights_only=True)
    assert [row["role"] for row in rows_of(tmp_path)] == ["real", "teacher", "average", "average", "average"]
    trainer(tmp_path / "none", [EMA(), evaluate(real=False)], max_steps=2).fit(TinyDistiller(), RealData())
    assert [row["role"] for row in rows_of(tmp_path / "none")] == ["teacher", "average"]


def test_a_teacher_that_is_asked_for_later_is_measured(tmp_path):
    def run(folder, max_steps, **options):
        callbacks = [EMA(), Evaluate(TinySuite(), count=4, batch_size=4, teacher_once=False, **options), Checkpoint()]
        last = tmp_path / "a" / "checkpoints" / "last.ckpt"
        ckpt = {"ckpt_path": last, "weights_only": True} if last.exists() else {}
        trainer(tmp_path / folder, callbacks, max_steps=max_steps).fit(TinyDistiller(), TinyData(), **ckpt)
        return [row["role"] for row in rows_of(tmp_path / folder)]

    assert run("a", 2, teacher=False) == ["average"]
    assert run("b", 4, teacher=True) == ["teacher", "average"]


def test_evaluation_time_is_not_training_time(tmp_path, clock):
    class Slow(TinySuite):
        def compute(self):
            clock.now += 300
            return super().compute()

    class SlowBatches(Callback):
        def on_train_batch_start(self, trainer, method, batch, batch_idx):
            clock.now += 2

    evaluate = Evaluate(Slow(), count=2, batch_size=2, every_n_steps=1, teacher=False, teacher_once=False)
    trainer(tmp_path, [evaluate, SlowBatches()], max_steps=5).fit(TinyDistiller(), TinyData())
    rows = rows_of(tmp_path)
    assert [row["evaluation_seconds"] for row in rows] == [300.0] * 5
    assert [row["training_seconds"] for row in rows] == [2.0, 4.0, 6.0, 8.0, 10.0]


def test_stop_request_ends_the_evaluation(tmp_path):
    class Stopping(TinySuite):
        def update(self, samples, label=None):
            super().update(samples, label)
            checkpoint.stop_signals.received = 15

    checkpoint = Checkpoint(every_n_steps=0)
    suite = Stopping()
    with pytest.raises(SystemExit) as stopped:
        trainer(tmp_path, [checkpoint, Evaluate(suite, count=400, batch_size=4, every_n_steps=2)]).fit(
            TinyDistiller(), TinyData()
        )
    assert stopped.value.code == 128 + 15
    assert not (tmp_path / "metrics.jsonl").exists()
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2


class Broken(TinyDistiller):
    """Samples number 3 and 7 are no samples."""

    def generate(self, denoiser, draws, condition, steps):
        samples = super().generate(denoiser, draws, condition, steps)
        broken = torch.tensor([index in (53, 57) for index in draws.indices])
        return torch.where(broken.reshape(-1, *[1] * (samples.ndim - 1)), torch.nan, samples)


def test_samples_that_are_no_numbers_are_counted_and_nothing_else_is_said(tmp_path):
    method = Broken(critic_every=2)
    evaluate = Evaluate(TinySuite(), count=10, batch_size=4, seed=50)
    trainer(tmp_path, [evaluate, EMA()], max_steps=2).fit(method, TinyData())
    *_, row = rows_of(tmp_path)
    assert row["role"] == "average" and row["values"] == {"not_finite": 2.0, "count": 10.0}
    assert "not_finite" in (tmp_path / "metrics.md").read_text()


def test_table_is_aligned():
    row = {"student_updates": 5, "role": "teacher", "nfe": 35, "values": {"frechet": 0.25, "recall": 0.5}}
    student = row | {"role": "average", "nfe": 1, "values": {"frechet": 0.5}, "ratio_to_teacher": {"frechet": 2.0}}
    assert table([row | {"ratio_to_teacher": {}}, student]) == (
        "| updates | role    | calls | frechet     | recall |\n"
        "| ------- | ------- | ----- | ----------- | ------ |\n"
        "|         | teacher | 35    | 0.25        | 0.5    |\n"
        "| 5       | average | 1     | 0.5 (2.00x) |        |\n"
    )
    assert table([student], upright=True) == (
        "| updates | 5           |\n"
        "| ------- | ----------- |\n"
        "| role    | average     |\n"
        "| calls   | 1           |\n"
        "| frechet | 0.5 (2.00x) |\n"
    )


def test_same_seed_means_same_noise_whatever_the_batch(tmp_path):
    sizes = []
    for batch_size in (3, 7):
        evaluate = Evaluate(TinySuite(), count=10, batch_size=batch_size, teacher=False, teacher_once=False)
        folder = tmp_path / str(batch_size)
        trainer(folder, [evaluate], max_steps=1).fit(TinyDistiller(), TinyData())
        sizes.append(rows_of(folder)[-1]["values"]["size"])
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-6)
    assert Draws(0, [10_000], "sample").normal("noise", (2,)).shape == (1, 2)


def test_bad_arguments():
    with pytest.raises(UserError, match="count"):
        Evaluate(TinySuite(), count=1)
