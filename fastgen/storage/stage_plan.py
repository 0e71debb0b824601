"""A plan of stages: a YAML file that says which commands follow each other, and what each takes from earlier ones.

```yaml
out: runs/instaflow            # a folder for all of it
shared: {...}                  # merged under the config of every stage
stages:
  - {name: pairs, command: pairs, config: {...}, options: {count: 20000}}
  - {name: reflow, command: fit, config: [reflow_mixture.yaml, {trainer: {max_steps: 1500}}]}
  - {name: straight, command: pairs, options: {ckpt: "stage:reflow", role: average, count: 20000}}
```

A config is a mapping, a file (beside the plan), or a list of both that are merged from left to right. ``stage:NAME`` is
what an earlier stage left: the folder of ``pairs``, the last checkpoint of ``fit``; ``stage:NAME/weights`` is the file
with the weights of a student's average.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REFERENCE = re.compile(r"stage:([\w-]+)(/weights)?")


@dataclass(frozen=True)
class Stage:
    """A command of a plan.

    Attributes:
        number: Its place, from 1.
        name: By which later stages refer to it.
        command: ``fit`` or ``pairs``.
        config: What it is configured with, references unresolved; empty if it has none.
        options: Further options of the command by name.
    """

    number: int
    name: str
    command: str
    config: Mapping[str, Any]
    options: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """What tells whether a stage is the one that was begun."""
        value = [self.name, self.command, self.config, self.options]
        return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def folder(self, out: Path) -> Path:
        """Where it writes."""
        return out / f"{self.number}-{self.name}"


@dataclass(frozen=True)
class Plan:
    """Stages in their order.

    Attributes:
        out: Folder of all.
        stages: What is done.
    """

    out: Path
    stages: Sequence[Stage]

    def left_by(self, name: str, weights: bool) -> str:
        """The path that a reference to stage ``name`` stands for."""
        stage = next(stage for stage in self.stages if stage.name == name)
        folder = stage.folder(self.out)
        if stage.command == "pairs":
            return str(folder)
        return str(folder / "checkpoints" / ("student.safetensors" if weights else "last.ckpt"))

    def resolved(self, value: Any) -> Any:
        """A copy with paths in place of references."""
        if isinstance(value, Mapping):
            return {key: self.resolved(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self.resolved(part) for part in value]
        if isinstance(value, str) and (found := REFERENCE.fullmatch(value)):
            return self.left_by(found[1], found[2] is not None)
        return value


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``: mappings are merged, unless they are of two classes; all else is replaced."""
    result = copy.deepcopy(dict(below))
    for key, value in above.items():
        old = result.get(key)
        other = isinstance(value, Mapping) and "class_path" in value and isinstance(old, Mapping)
        replaced = other and old.get("class_path", value["class_path"]) != value["class_path"]  # type: ignore[union-attr]
        if isinstance(value, Mapping) and isinstance(old, Mapping) and not replaced:
            result[key] = merged(old, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def references(value: Any) -> list[str]:
    """The names of the stages that a value refers to."""
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    own = [found[1]] if isinstance(value, str) and (found := REFERENCE.fullmatch(value)) else []
    return own + [name for part in parts for name in references(part)]
