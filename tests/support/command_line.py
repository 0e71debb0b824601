"""Runs of the ``fastgen`` command, in this process where that is safe, and small problems to run it on."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import lightning.pytorch  # noqa: F401  its log handler keeps the stderr of its first import: not that of one test
import pytest
import torch
import yaml

from fastgen.__main__ import main

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def rooms_of(config: dict[str, Any]) -> set[str]:
    """What a config needs of the house: its data, callbacks, networks and sampler, by class."""
    arguments = config["model"].get("init_args", {})
    parts = [config["data"], *config["trainer"]["callbacks"]]
    parts += [arguments[name] for name in ("teacher", "student", "critic", "sampler") if name in arguments]
    return {part["class_path"].split(".")[-1] for part in parts if isinstance(part, dict)}


def few_of(paths: Iterable[Path]) -> list[Any]:
    """The configs as parameters, all but few of them ``slow``: the few need all that any of them needs.

    There is a config for each method and more; what a method does by itself is seen by the contract test.
    """
    named = {path: rooms_of(yaml.safe_load(path.read_text())) for path in paths}
    missing = set().union(*named.values())
    kept = []
    while missing:
        kept.append(max(named, key=lambda path: len(named[path] & missing)))
        missing -= named[kept[-1]]
    return [
        pytest.param(path, id=path.stem, marks=[] if path in kept else [pytest.mark.slow])
        for path in sorted(named, key=lambda path: path.stem)
    ]


torch.set_num_threads(1)


def fastgen(*words: object) -> int:
    """The exit code of ``fastgen WORDS`` in this process; its environment and ``sys.argv`` are put back."""
    with mock.patch.dict(os.environ), mock.patch.object(sys, "argv", list(sys.argv)):
        try:
            return main([str(word) for word in words])
        except SystemExit as stop:
            return int(stop.code or 0)


def environment(**more: str) -> dict[str, str]:
    """The environment of a subprocess that finds this checkout."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | more


def start(*words: object, cwd: Path | None = None) -> subprocess.Popen[str]:
    """``fastgen WORDS`` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "fastgen", *map(str, words)],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 400.0) -> tuple[str, str]:
    """Standard output and error of a process that must end well."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err[-3000:]
    return out, err


def write(path: Path, config: dict[str, Any]) -> Path:
    """A config as a YAML file."""
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def trainer(folder: Path, steps: int, *callbacks: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The trainer section of a small run in ``folder``."""
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(folder), "name": "run"},
    }
    return {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": steps,
        "logger": logger,
        "enable_model_summary": False,
        "callbacks": list(callbacks),
        **more,
    }


def checkpoint(every: int = 2, **more: Any) -> dict[str, Any]:
    """A checkpoint callback."""
    return {"class_path": "fastgen.callbacks.Checkpoint", "init_args": {"every_n_steps": every, **more}}


def unplug(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """No network and empty caches, without waiting for either."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(cache))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)


EMA = {"class_path": "EMA", "init_args": {"rule": {"class_path": "ConstantEMA", "init_args": {"decay": 0.9}}}}
EDM = {"class_path": "EDM"}
RING = {"class_path": "RingMixture", "init_args": {"process": EDM}}
FEWER = [
    {"class_path": "WassersteinDistance", "init_args": {"exact_count": 300}},
    *("LawKernelDistance", "LawLikelihood", "ModeCoverage", "LawAccuracy"),
]
"""The metrics of a mixture, with fewer samples transported."""
MLP = {"class_path": "MLP", "init_args": {"process": EDM, "width": 16, "depth": 1}}
UNET = {"class_path": "UNet", "init_args": {"process": EDM, "width": 8, "num_classes": 10}}


def unshared(config: dict[str, Any]) -> dict[str, Any]:
    """A copy in which no two parts are one object, so that a change stays where it is made."""
    return json.loads(json.dumps(config))


def mixture(folder: Path, method: str = "SiD", steps: int = 4, batch_size: int = 32, **more: Any) -> dict[str, Any]:
    """Points, data-free, with the exact teacher; ``more`` are arguments of the method."""
    config = {
        "threads": 1,
        "trainer": trainer(folder, steps, EMA, checkpoint()),
        "model": {
            "class_path": method,
            "init_args": {
                "teacher": RING,
                "student": MLP,
                "critic": MLP,
                "sampler": {"class_path": "RenoiseSampler", "init_args": {"times": [5.0]}},
                "student_optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}},
                "critic_optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 2e-3}},
                **more,
            },
        },
        "data": {"class_path": "Mixture", "init_args": {"distribution": RING, "batch_size": batch_size}},
    }
    return unshared(config)


def digits(folder: Path, method: str = "SiD", steps: int = 2, batch_size: int = 16, **more: Any) -> dict[str, Any]:
    """Images with labels and an untrained teacher; ``more`` are arguments of the method."""
    config = {
        "threads": 1,
        "trainer": trainer(folder, steps, EMA, checkpoint()),
        "model": {"class_path": method, "init_args": {"teacher": UNET, **more}},
        "data": {"class_path": "Digits", "init_args": {"batch_size": batch_size}},
    }
    return unshared(config)


def last(folder: Path, version: int = 0) -> Path:
    """``last.ckpt`` of a run of these problems."""
    return folder / "run" / f"version_{version}" / "checkpoints" / "last.ckpt"


def load(path: Path) -> dict[str, Any]:
    """A checkpoint."""
    return torch.load(path, weights_only=True)


def tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a nested value by their place in it."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {place: tensor for key, part in items for place, tensor in tensors(part, f"{name}.{key}").items()}


def trained(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor that a checkpoint restores: networks, averages and optimizers."""
    saved = load(path)
    return tensors({name: saved[name] for name in ("state_dict", "optimizer_states")})


def assert_same_training(one: Path, other: Path, **tolerance: float) -> None:
    """Two checkpoints hold the same counters and tensors, bit by bit unless a tolerance (rtol, atol) is given."""
    first, second = load(one), load(other)
    for name in ("iteration", "averages", "bad_steps_total"):
        assert first["fastgen"][name] == second["fastgen"][name]
    assert first["global_step"] == second["global_step"]
    left, right = trained(one), trained(other)
    assert left.keys() == right.keys() and len(left) > 30
    for name, value in left.items():
        torch.testing.assert_close(
            value, right[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance or EXACT
        )


EXACT = {"rtol": 0.0, "atol": 0.0}


def in_pair(folder: Path, commands: list[list[object]], timeout: float = 600.0) -> list[tuple[int, list[str]]]:
    """Run commands one after the other on two processes that stay; for each the exit code and both standard errors."""
    file = folder / "commands.json"
    file.write_text(json.dumps([[str(word) for word in words] for words in commands]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = [(folder / f"{kind}-{rank}.txt").open("w") for rank in range(2) for kind in ("out", "err")]
    command = [sys.executable, str(ROOT / "tests" / "support" / "pair.py"), str(file)]
    pair = [
        subprocess.Popen(
            [*command, str(rank), str(port)],
            env=environment(PYTHONPATH=os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "support")))),
            stdout=logs[2 * rank],
            stderr=logs[2 * rank + 1],
        )
        for rank in range(2)
    ]
    try:
        codes = [process.wait(timeout=timeout) for process in pair]
    finally:
        for process in pair:
            process.kill()
        for log in logs:
            log.close()
    errors = [(folder / f"err-{rank}.txt").read_text() for rank in range(2)]
    assert codes == [0, 0], "\n".join(text[-4000:] for text in errors)
    parts = [re.split(r"^done (\d+)\n", text, flags=re.MULTILINE) for text in errors]
    assert parts[0][1::2] == parts[1][1::2] and len(parts[0]) == 2 * len(commands) + 1
    return [(int(code), [part[2 * i] for part in parts]) for i, code in enumerate(parts[0][1::2])]
