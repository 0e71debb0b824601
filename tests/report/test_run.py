import json

import pytest
from folders import CONFIG, ROWS, run_folder

from fastgen.errors import UserError
from fastgen.report.differences import MISSING, differences, flatten, written
from fastgen.report.page import page
from fastgen.report.run import find_run, latest_checkpoint, read_run, read_runs, short_names
from fastgen.report.scalars import read_scalars, thinned


def test_a_whole_run(tmp_path):
    folder = run_folder(tmp_path / "sid" / "version_0")
    (folder / "grids").mkdir()
    for step in (0, 50, 100):
        (folder / "grids" / f"step_{step:06d}.png").write_bytes(b"")
    run = read_run(folder)
    assert (run.name, run.method, run.student_updates, run.problems) == ("sid", "SiD", 100, ())
    assert [m.values["frechet"] for m in run.measurements] == [2.0, 30.0, 6.0, 3.0]
    assert run.measurements[3].training_seconds == 10.0
    assert [event.student_updates for event in run.events] == [50, 100]
    assert run.throughput["samples_per_second"] == 1024.0
    assert [path.name for path in run.grids] == ["step_000000.png", "step_000050.png", "step_000100.png"]
    assert run.checkpoint is None


def test_keys_in_a_config_that_a_user_wrote_are_on_no_page(tmp_path):
    config = CONFIG + "data: {class_path: x.Y, init_args: {api_key: hush, url: 'https://me:hush@there', count: 3}}"
    runs = [read_run(run_folder(tmp_path / name, config=text)) for name, text in (("a", config), ("b", CONFIG))]
    written = page(runs, {}, {})
    assert "hush" not in written and "api_key" in written and "https://me:********@there" in written


def test_what_is_missing_is_said_and_the_rest_is_read(tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder / "throughput.json").unlink()
    (folder / "config.yaml").write_text("model: [unclosed")
    whole = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(whole + '{"role": "average", "val\n[1, 2]\n{"role": 3}\n')
    run = read_run(folder)
    assert len(run.measurements) == len(ROWS) and run.config == {} and run.method == ""
    assert len(run.problems) == 3
    assert "YAML" in run.problems[0] and run.problems[1].startswith("3 lines of metrics.jsonl")
    assert "throughput.json" in run.problems[2]


def test_numbers_that_are_none_are_left_out(tmp_path):
    line = ROWS[3] | {"values": {"frechet": "high", "recall": 0.5, "kid": None, "flag": True, "nll": float("nan")}}
    run = read_run(run_folder(tmp_path / "run", [line, {"role": "average", "values": {"recall": 1}}]))
    assert set(run.measurements[0].values) == {"recall", "nll"}
    assert run.measurements[1].nfe is None and run.measurements[1].values == {"recall": 1.0}


def test_the_latest_version_is_taken(tmp_path):
    for version in (0, 2, 10):
        run_folder(tmp_path / "sid" / f"version_{version}")
    (tmp_path / "sid" / "version_11").mkdir()  # holds nothing
    assert find_run(tmp_path / "sid").name == "version_10"


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"is no folder; give the folder of a run"):
        find_run(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"holds none of config.yaml, metrics.jsonl"):
        find_run(tmp_path)
    run = run_folder(tmp_path / "run")
    with pytest.raises(UserError, match="given twice"):
        read_runs([run, tmp_path / "run"])


def test_names_tell_runs_apart(tmp_path):
    def names(*paths):
        return short_names([tmp_path / path for path in paths])

    assert names("a/version_0", "b/version_3") == ["a", "b"]
    assert names("a/version_0", "a/version_1") == ["a/version_0", "a/version_1"]
    assert names("x/a/version_0", "y/a/version_0", "y/b") == ["x/a/version_0", "y/a/version_0", f"{tmp_path.name}/y/b"]


def test_checkpoints_are_found_where_they_were_written(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    config = {"trainer": {"callbacks": [{"class_path": "x.Checkpoint", "init_args": {"dirpath": str(elsewhere)}}]}}
    assert latest_checkpoint(tmp_path, config) is None
    elsewhere.mkdir()
    for name in ("step=000100.ckpt", "step=000200.ckpt"):
        (elsewhere / name).write_bytes(b"")
    assert latest_checkpoint(tmp_path, config).name == "step=000200.ckpt"
    (elsewhere / "last.ckpt").write_bytes(b"")
    assert latest_checkpoint(tmp_path, config).name == "last.ckpt"
    assert latest_checkpoint(tmp_path, {"trainer": {"callbacks": True}}) is None


def test_settings_are_flattened_by_class():
    config = {
        "trainer": {"max_steps": 5, "callbacks": [{"class_path": "fastgen.callbacks.EMA", "init_args": {"name": "a"}}]},
        "model": {"class_path": "other.SiD", "init_args": {"times": [1.0, 2.0], "extras": [], "solver": None}},
    }
    assert flatten(config) == {
        "trainer.max_steps": 5,
        "trainer.callbacks[EMA]": "EMA",
        "trainer.callbacks[EMA].name": "a",
        "model": "other.SiD",
        "model.times": [1.0, 2.0],
        "model.extras": [],
        "model.solver": None,
    }


def test_only_differences_are_listed_wherever_callbacks_stand():
    ema = {"class_path": "fastgen.callbacks.EMA", "init_args": {"decay": 0.9}}
    health = {"class_path": "fastgen.callbacks.Health"}
    one = {"lr": 1.0, "flag": True, "callbacks": [ema, health], "deep": {"a": 1}}
    other = {"lr": 1, "flag": 1, "callbacks": [health, {**ema, "init_args": {"decay": 0.99}}], "deep": {}}
    rows = dict(differences([one, other]))
    assert rows == {
        "flag": (True, 1),
        "callbacks[EMA].decay": (0.9, 0.99),
        "deep.a": (1, MISSING),
        "deep": (MISSING, {}),
    }
    assert [written(value) for value in (True, None, MISSING, [1, None], "")] == [
        "true",
        "null",
        "-",
        "[1, null]",
        "''",
    ]


def test_curves_of_the_csv_logger(tmp_path):
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,student/loss,critic/loss\n0,10,1.5,\n0,20,,2.5\n0,20,nan,3.5\n0,x,9,9\n"
    )
    assert read_scalars(tmp_path) == {"student/loss": [(10.0, 1.5)], "critic/loss": [(20.0, 3.5)]}


def test_curves_of_tensorboard_even_if_a_file_is_cut_short(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(1, 6):
            writer.add_scalar("student/loss", 1.0 / step, step)
        writer.add_text("note", "no scalar")
    curve = read_scalars(tmp_path)["student/loss"]
    assert curve == [(float(k), pytest.approx(1.0 / k)) for k in range(1, 6)]
    (file,) = tmp_path.glob("events*")
    file.write_bytes(file.read_bytes()[:-150])
    assert 1 <= len(read_scalars(tmp_path).get("student/loss", [])) < 5


def test_thinned_curves_keep_mean_and_end():
    points = [(float(k), float(k % 2)) for k in range(1000)]
    few = thinned(points, 100)
    assert len(few) <= 100 and few[-1] == points[-1]
    assert all(0.3 < y < 0.7 for _, y in few[:-1])
    assert thinned(points[:50], 100) == points[:50]


def test_json_of_a_damaged_file_is_told(tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder / "throughput.json").write_text(json.dumps({"a": 1})[:-1])
    assert "throughput.json cannot be read." in read_run(folder).problems
