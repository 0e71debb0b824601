"""``fastgen stages``: plans, what they refuse, and chains that are killed everywhere and end bit for bit the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import CONFIGS, EMA, MLP, RING, ROOT, assert_same_training, checkpoint, fastgen, write

from fastgen.callbacks import Checkpoint
from fastgen.cli import pair_writing
from fastgen.cli.stage_runs import RECORD, command_of, placed, run_plan
from fastgen.errors import UserError
from fastgen.storage.stage_files import read_plan
from fastgen.storage.stage_plan import merged

PLANS = sorted((ROOT / "configs" / "stages").glob("*.yaml"))


def adam(lr: float) -> dict[str, Any]:
    return {"class_path": "torch.optim.Adam", "init_args": {"lr": lr}}


def chain(folder: Path) -> Path:
    """InstaFlow's chain and a matching after it, on tiny networks."""
    data = {"class_path": "Pairs", "init_args": {"path": "stage:pairs", "held_out_count": 4, "batch_size": 8}}
    cosine = {"class_path": "fastgen.schedules.Cosine"}
    reflow = {
        "class_path": "Reflow",
        "init_args": {
            "teacher": RING,
            "student": MLP,
            "solver": {"class_path": "Euler", "init_args": {"steps": 3}},
            "student_optimizer": adam(1e-3),
            "student_lr_scheduler": cosine,
        },
    }
    student = {"class_path": "MLP", "init_args": MLP["init_args"] | {"weights": "stage:reflow/weights"}}
    matching = {
        "class_path": "DMD2",
        "init_args": {
            "teacher": RING,
            "student": MLP,
            "critic": MLP,
            "schedule": {"critic_updates": 1},
            "student_optimizer": adam(1e-3),
            "critic_optimizer": adam(1e-3),
        },
    }
    options = {"count": 24, "shard_size": 8, "batch_size": 8}
    plan = {
        "out": str(folder / "out"),
        "shared": {
            "threads": 1,
            "trainer": {
                "accelerator": "cpu",
                "devices": 1,
                "enable_model_summary": False,
                "enable_progress_bar": False,
                "callbacks": [EMA, checkpoint(2)],
            },
        },
        "stages": [
            {"name": "pairs", "command": "pairs", "config": {"model": reflow}, "options": options},
            {
                "name": "reflow",
                "command": "fit",
                "config": [{"model": reflow}, {"trainer": {"max_steps": 4}, "data": data}],
            },
            {
                "name": "straight",
                "command": "pairs",
                "options": options | {"ckpt": "stage:reflow", "role": "average", "steps": 2},
            },
            {
                "name": "distil",
                "command": "fit",
                "config": {
                    "trainer": {"max_steps": 4},
                    "data": merged(data, {"init_args": {"path": "stage:straight"}}),
                    "model": {
                        "class_path": "KD",
                        "init_args": {
                            "student": student,
                            "student_optimizer": adam(1e-3),
                            "student_lr_scheduler": cosine,
                        },
                    },
                },
            },
            {
                "name": "matching",
                "command": "fit",
                "config": {
                    "init_from": "stage:distil",
                    "trainer": {"max_steps": 4},
                    "model": matching,
                    "data": {"class_path": "Mixture", "init_args": {"distribution": RING, "batch_size": 8}},
                },
            },
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    return write(folder / "plan.yaml", json.loads(json.dumps(plan)))


class Killed(BaseException):
    """No exception that anyone handles."""


def once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int, before: bool = True) -> None:
    """Have call ``number`` of a function end in :class:`Killed`, before or after it has done its work."""
    original, calls = getattr(owner, name), [0]

    def function(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number and before:
            raise Killed
        result = original(*args, **kwargs)
        if calls[0] == number:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, function)


def in_this_process(words: list[str]) -> int:
    return fastgen(*words)


def launch_until(stage: int, before: bool) -> Callable[[list[str]], int]:
    """Kills at a border: before a stage begins, or when it is over and nothing is noted yet."""
    seen = [0]

    def launch(words: list[str]) -> int:
        seen[0] += 1
        if seen[0] == stage and before:
            raise Killed
        code = fastgen(*words)
        if seen[0] == stage:
            raise Killed
        return code

    return launch


def test_a_chain_that_is_killed_everywhere_ends_as_one_that_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = read_plan(chain(tmp_path / "whole"))
    assert run_plan(whole, in_this_process) == 0
    assert run_plan(whole, launch_until(1, before=True)) == 0  # everything is done: nothing is launched
    broken = read_plan(chain(tmp_path / "broken"))
    inside = [
        (pair_writing, "write_shard", 2, True),  # in the first stage, after a shard
        (Checkpoint, "save", 1, True),  # in the second, before its first checkpoint
        (Checkpoint, "save", 1, False),  # there, after it
        (pair_writing, "write_shard", 1, False),  # in the third
    ]
    for owner, name, number, before in inside:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            once(patch, owner, name, number, before)
            run_plan(broken, in_this_process)
    for stage, before in ((2, True), (1, False), (2, True)):
        with pytest.raises(Killed):
            run_plan(broken, launch_until(stage, before))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        once(patch, Checkpoint, "save", 1, False)
        run_plan(broken, in_this_process)  # in the last
    assert run_plan(broken, in_this_process) == 0
    for stage in whole.stages:
        one, other = (stage.folder(plan.out) for plan in (whole, broken))
        if stage.command == "pairs":
            shards = sorted(path.name for path in one.glob("*.safetensors"))
            assert len(shards) == 3
            assert all((one / name).read_bytes() == (other / name).read_bytes() for name in shards)
        else:
            assert_same_training(one / "checkpoints" / "last.ckpt", other / "checkpoints" / "last.ckpt")
    record = json.loads((broken.out / RECORD).read_text())["stages"]
    assert [entry["done"] for entry in record.values()] == [True] * 5


def test_another_plan_does_not_go_on(tmp_path: Path):
    path = chain(tmp_path)
    plan = read_plan(path)
    with pytest.raises(Killed):
        run_plan(plan, launch_until(2, before=True))
    path.write_text(path.read_text().replace("count: 24", "count: 32"))
    with pytest.raises(UserError, match="Stage 'pairs' was begun with other settings"):
        run_plan(read_plan(path), in_this_process)
    strange = read_plan(path, str(tmp_path))
    with pytest.raises(UserError, match="files of unknown origin"):
        run_plan(strange, in_this_process)


def test_a_stage_that_fails_ends_the_run(tmp_path: Path):
    plan = read_plan(chain(tmp_path))
    assert run_plan(plan, lambda words: 3) == 3
    assert json.loads((plan.out / RECORD).read_text())["stages"]["pairs"]["done"] is False


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_shipped_plans(path: Path):
    """What their stages are told is told to commands that know it: no name is unknown to the parsers."""
    plan = read_plan(path, "somewhere")
    assert plan.stages
    for stage in plan.stages:
        config = placed(plan.resolved(stage.config), stage.folder(plan.out)) if stage.command == "fit" else {}
        assert "stage:" not in json.dumps(config)
        if config:
            callbacks = [entry["class_path"].split(".")[-1] for entry in config["trainer"]["callbacks"]]
            assert callbacks.count("Checkpoint") == 1


def test_a_shipped_plan_is_parsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plan = read_plan(ROOT / "configs" / "stages" / "instaflow_mixture.yaml", str(tmp_path / "out"))
    words = command_of(plan, plan.stages[3])
    capsys.readouterr()
    assert fastgen(*words, "--print_config") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["init_args"]["student"]["init_args"]["weights"].endswith(
        "2-reflow/checkpoints/student.safetensors"
    )
    assert shown["data"]["init_args"]["path"] == str(tmp_path / "out" / "3-straight")


BAD = {
    "no list": ({"stages": []}, "is no plan"),
    "unknown part": ({"stages": [{}], "more": 1}, "has 'more'"),
    "no folder": ({"out": None, "stages": [{}]}, "does not say where"),
    "no name": ({"stages": [{"command": "fit"}]}, "has no name"),
    "twice": ({"stages": [{"name": "a", "command": "pairs"}] * 2}, "cannot be called 'a'"),
    "command": ({"stages": [{"name": "a", "command": "sample"}]}, "has the command 'sample'"),
    "unknown": ({"stages": [{"name": "a", "command": "pairs", "ckpt": "x"}]}, "has 'ckpt'"),
    "out": ({"stages": [{"name": "a", "command": "pairs", "options": {"out": "x"}}]}, "without out and config"),
    "no config": ({"stages": [{"name": "a", "command": "fit"}]}, "has no config"),
    "later": ({"stages": [{"name": "a", "command": "pairs", "options": {"ckpt": "stage:b"}}]}, "what 'b' left"),
    "file": ({"stages": [{"name": "a", "command": "fit", "config": 3}]}, "neither a mapping nor"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_plan(name: str, tmp_path: Path):
    plan, said = BAD[name]
    path = write(tmp_path / "plan.yaml", {"out": "x"} | plan)
    with pytest.raises(UserError, match=said):
        read_plan(path)


def test_a_class_takes_nothing_of_another_over():
    below = {"model": {"class_path": "A", "init_args": {"x": 1, "y": {"z": 2}}}}
    assert merged(below, {"model": {"class_path": "B"}}) == {"model": {"class_path": "B"}}
    same = merged(below, {"model": {"class_path": "A", "init_args": {"y": {"w": 3}}}})
    assert same["model"]["init_args"] == {"x": 1, "y": {"z": 2, "w": 3}}
    assert below["model"]["init_args"]["y"] == {"z": 2}


def test_configs_of_stages_are_files_of_the_folder():
    assert {path.parent.name for path in PLANS} == {"stages"} and not set(PLANS) & set(CONFIGS)
