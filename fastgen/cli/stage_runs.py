"""Running a plan of stages: what is done is not done again, what was interrupted goes on."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastgen.errors import UserError
from fastgen.storage.documents import read_json
from fastgen.storage.files import write_json, write_text
from fastgen.storage.stage_plan import Plan, Stage, merged

RECORD = "stages.json"
"""What is done, in the folder of the plan."""
FORMAT = 1
Launch = Callable[[list[str]], int]
"""Runs ``fastgen WORDS`` and gives its exit code."""


def run_plan(plan: Plan, launch: Launch) -> int:
    """Run the stages that are not done; the exit code of the first that fails, else 0.

    Raises:
        UserError: If the folder was begun with another plan.
    """
    record = known_record(plan)
    for stage in plan.stages:
        if record.get(stage.name, {}).get("done"):
            continue
        print(f"fastgen: stage {stage.number} of {len(plan.stages)}, {stage.name}", file=sys.stderr, flush=True)
        record[stage.name] = {"digest": stage.digest, "command": stage.command, "done": False}
        write_record(plan, record)
        if code := launch(command_of(plan, stage)):
            return code
        record[stage.name]["done"] = True
        write_record(plan, record)
    return 0


def known_record(plan: Plan) -> dict[str, dict[str, Any]]:
    """What was done in the folder of a plan.

    Raises:
        UserError: If it was another plan, or the folder is something else.
    """
    path = plan.out / RECORD
    if not path.exists():
        if plan.out.is_dir() and any(plan.out.iterdir()):
            raise UserError(f"'{plan.out}' holds files of unknown origin; give another --out.")
        return {}
    found = read_json(path, "delete the folder and begin again")
    entries = found.get("stages") if isinstance(found, dict) and found.get("format") == FORMAT else None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"'{path}' is no record of stages; give another --out.")
    for stage in plan.stages:
        if stage.name in entries and entries[stage.name].get("digest") != stage.digest:
            raise UserError(
                f"Stage '{stage.name}' was begun with other settings in '{plan.out}'; restore them, or give another "
                "--out."
            )
    return entries


def write_record(plan: Plan, record: Mapping[str, Any]) -> None:
    """Note what is done."""
    plan.out.mkdir(parents=True, exist_ok=True)
    write_json(plan.out / RECORD, {"format": FORMAT, "stages": dict(record)})


def command_of(plan: Plan, stage: Stage) -> list[str]:
    """The words that begin a stage, or go on with it; its config is written beside its folder."""
    folder = stage.folder(plan.out)
    words = [stage.command]
    if stage.config:
        config = plan.resolved(stage.config)
        words.append(f"--config={write_config(config if stage.command == 'pairs' else placed(config, folder), folder)}")
    for name, value in plan.resolved(stage.options).items():
        option = f"--{name.replace('_', '-') if stage.command == 'pairs' else name}"
        words += [option] if value is True else [f"{option}={value if isinstance(value, str) else json.dumps(value)}"]
    if stage.command == "pairs":
        return [*words, f"--out={folder}"]
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists():
        return [*words, "--init_from=null", f"--ckpt_path={last}"]
    if folder.exists():  # it was ended before its first checkpoint: nothing to go on from
        shutil.rmtree(folder)
    return words


def write_config(config: Mapping[str, Any], folder: Path) -> Path:
    """The config of a stage as a file."""
    import yaml

    return write_text(folder.with_name(f"{folder.name}.yaml"), yaml.safe_dump(dict(config), sort_keys=False))


def placed(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A config of ``fit`` whose loggers and checkpoints are in the stage's folder."""
    trainer = dict(config.get("trainer") or {})
    checkpoint = {"class_path": "fastgen.callbacks.Checkpoint", "init_args": {"dirpath": str(folder / "checkpoints")}}
    callbacks = [dict(c) if isinstance(c, Mapping) else {"class_path": c} for c in trainer.get("callbacks") or []]
    kept = [i for i, callback in enumerate(callbacks) if str(callback["class_path"]).endswith("Checkpoint")]
    for i in kept:
        callbacks[i] = merged(callbacks[i], {"init_args": checkpoint["init_args"]})
    trainer["callbacks"] = callbacks if kept else [*callbacks, checkpoint]
    loggers = trainer.get("logger")
    if not isinstance(loggers, Mapping | list):
        loggers = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {}}
    several = loggers if isinstance(loggers, list) else [loggers]
    home = {"init_args": {"save_dir": str(folder), "name": "run", "version": ""}}
    several = [merged(logger, home) for logger in several]
    trainer["logger"] = several if isinstance(loggers, list) else several[0]
    return {**config, "trainer": trainer}
