"""Several ``fastgen`` commands, one after the other, on one pair of processes: python pair.py COMMANDS.json RANK PORT.

Starting a process costs more than these commands do. A line in COMMANDS.json is a list of words; standard output gets
one line ``done CODE`` for each, and whatever the command prints.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from fastgen.methods import Distiller


class Holdings(Callback):
    """Writes how many elements of what this process holds, and of how many, after the last update.

    Args:
        folder: Where to write ``holdings-RANK.json``.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, method: Distiller) -> None:
        held: dict[str, list[int]] = {}
        for name, parameter in method.named_parameters():
            place = held.setdefault(name.split(".")[0], [0, 0])
            place[0] += parameter.to_local().numel() if hasattr(parameter, "to_local") else parameter.numel()
            place[1] += parameter.numel()
        for role, optimizer in zip(method.roles(), trainer.optimizers, strict=True):
            sizes = [0, 0]
            for state in optimizer.state.values():
                for value in state.values():
                    sizes[0] += value.to_local().numel() if hasattr(value, "to_local") else value.numel()
                    sizes[1] += value.numel()
            held[f"optimizer of {role}"] = sizes
        Path(self.folder, f"holdings-{trainer.global_rank}.json").write_text(json.dumps(held))


def run(commands: list[list[str]]) -> None:
    from command_line import fastgen

    for words in commands:
        code: Any
        try:
            code = fastgen(*words)
        except Exception:
            traceback.print_exc()
            code = "raised"
        print(f"done {code}", flush=True)
        print(f"done {code}", file=sys.stderr, flush=True)
        if code == "raised":  # the other process may wait for ever
            os._exit(1)


if __name__ == "__main__":
    sys.modules["pair"] = sys.modules["__main__"]
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": sys.argv[2], "NODE_RANK": "0", "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[3]}
    run(json.loads(Path(sys.argv[1]).read_text()))
