"""Reading a plan of stages, see :mod:`fastgen.storage.stage_plan`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastgen.errors import UserError
from fastgen.storage.documents import read_yaml
from fastgen.storage.stage_plan import Plan, Stage, merged, references

COMMANDS = ("fit", "pairs")
KNOWN = {"name", "command", "config", "options"}


def read_plan(path: Path, out: str | None = None) -> Plan:
    """The plan in a file.

    Args:
        path: The file.
        out: The folder, if it is not the file's.

    Raises:
        UserError: If the file is no plan.
    """
    found = read_yaml(path)
    if not isinstance(found, dict) or not isinstance(found.get("stages"), list) or not found["stages"]:
        raise UserError(f"'{path}' is no plan; give it a list of 'stages', see 'fastgen stages --help'.")
    if unknown := found.keys() - {"out", "shared", "stages"}:
        raise UserError(f"'{path}' has '{min(unknown)}'; a plan has out, shared and stages.")
    folder = out or found.get("out")
    if not isinstance(folder, str):
        raise UserError(f"'{path}' does not say where its stages write; give --out, or 'out' in the file.")
    shared = found.get("shared") or {}
    if not isinstance(shared, dict):
        raise UserError(f"'shared' in '{path}' is no mapping; write what stands in the config of every stage.")
    stages: list[Stage] = []
    for number, entry in enumerate(found["stages"], 1):
        stages.append(stage_of(entry, number, path, shared, {stage.name for stage in stages}))
    return Plan(Path(folder).expanduser(), stages)


def stage_of(entry: Any, number: int, path: Path, shared: Mapping[str, Any], earlier: set[str]) -> Stage:
    """An entry of the list.

    Raises:
        UserError: If it is no stage.
    """
    place = f"Stage {number} in '{path}'"
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise UserError(f"{place} has no name; write e.g. '- name: reflow'.")
    name, command, options = entry["name"], entry.get("command"), entry.get("options") or {}
    if not re.fullmatch(r"[\w-]+", name) or name in earlier:
        raise UserError(f"{place} cannot be called '{name}'; take letters and digits that no other stage has.")
    if command not in COMMANDS:
        raise UserError(f"{place} has the command '{command}'; it is one of: {', '.join(COMMANDS)}.")
    if unknown := entry.keys() - KNOWN:
        raise UserError(f"{place} has '{min(unknown)}'; known are: {', '.join(sorted(KNOWN))}.")
    if not isinstance(options, dict) or "out" in options or "config" in options:
        raise UserError(f"The options of {place.lower()} must be a mapping without out and config; remove those.")
    given = entry.get("config")
    pieces: list[Any] = [] if given is None else given if isinstance(given, list) else [given]
    config: dict[str, Any] = dict(shared) if pieces else {}
    for piece in pieces:
        config = merged(config, piece if isinstance(piece, dict) else config_of(piece, path))
    if command == "fit" and not pieces:
        raise UserError(f"{place} has no config; give a file or what would stand in one.")
    if later := [other for other in references([config, options]) if other not in earlier]:
        raise UserError(f"{place} takes what '{later[0]}' left, which is no earlier stage; give the name of one.")
    return Stage(number, name, command, config, options)


def config_of(name: Any, plan: Path) -> dict[str, Any]:
    """The config in a file beside the plan.

    Raises:
        UserError: If there is none.
    """
    if not isinstance(name, str):
        raise UserError(f"'{plan}' has a config that is neither a mapping nor the name of a file; mend it.")
    found = read_yaml(plan.parent / name)
    if not isinstance(found, dict):
        raise UserError(f"'{plan.parent / name}' is no mapping; begin it with 'trainer:', 'model:' and 'data:'.")
    return found
