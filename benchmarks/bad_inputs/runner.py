"""Runs commands in forked children of a process that has imported everything: most bad inputs then cost 0.2 s."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.bad_inputs.inputs import BadInput, Outcome, judge

GIBIBYTE = 1 << 30


@dataclass(frozen=True)
class Limits:
    """What a command may use.

    Attributes:
        seconds: CPU time; a command that takes longer is stopped.
        gibibytes: Memory beyond what the parent holds.
    """

    seconds: int = 20
    gibibytes: int = 6


@dataclass
class Child:
    """A running command."""

    given: BadInput
    folder: Path
    deadline: float
    streams: tuple[int, int]
    said: tuple[bytearray, bytearray]

    def read(self) -> None:
        """Take what it has said so far, so that it never waits for a reader."""
        for stream, said in zip(self.streams, self.said, strict=True):
            with contextlib.suppress(BlockingIOError):
                while part := os.read(stream, 1 << 16):
                    said += part


def start(given: BadInput, main: Callable[[list[str]], int], limits: Limits) -> tuple[int, Child]:
    """Fork a child that runs the command in a folder of its own; its process id and record."""
    folder = Path(tempfile.mkdtemp(prefix="bad-input-"))
    pipes = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child(given, main, limits, folder, [write for _, write in pipes])
        finally:
            os._exit(1)
    for read, write in pipes:
        os.close(write)
        os.set_blocking(read, False)
    return pid, Child(
        given, folder, time.monotonic() + 15 * limits.seconds, (pipes[0][0], pipes[1][0]), (bytearray(), bytearray())
    )


def child(
    given: BadInput, main: Callable[[list[str]], int], limits: Limits, folder: Path, streams: Sequence[int]
) -> None:
    """The life of a child: ends in an exit code. It speaks into pipes, which a file-size limit does not stop."""
    import traceback

    os.setsid()
    os.chdir(folder)
    for number, stream in zip((1, 2), streams, strict=True):
        os.dup2(stream, number)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
    used = int(time.process_time()) + limits.seconds
    resource.setrlimit(resource.RLIMIT_CPU, (used, used + 5))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + limits.gibibytes * GIBIBYTE
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    code: int | str | None = 1
    try:
        words = [str(word) for word in given.words(folder)]
        sys.argv = ["fastgen", *words]
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def ended(status: int, one: Child) -> Outcome:
    """The outcome of a child that has ended; its folder goes."""
    one.read()
    for stream in one.streams:
        os.close(stream)
    out, errors = (said.decode(errors="replace") for said in one.said)
    shutil.rmtree(one.folder, ignore_errors=True)
    return judge(one.given.key, one.given.expected, os.waitstatus_to_exitcode(status), out, errors)


def outcomes(
    inputs: Iterable[BadInput], main: Callable[[list[str]], int], jobs: int = 2, limits: Limits = Limits()
) -> Iterator[Outcome]:
    """Run them all, ``jobs`` at a time; outcomes come in the order in which the commands end."""
    waiting, running = iter(inputs), dict[int, Child]()
    more = True
    while more or running:
        while more and len(running) < jobs:
            if (given := next(waiting, None)) is None:
                more = False
            else:
                pid, one = start(given, main, limits)
                running[pid] = one
        for pid, one in list(running.items()):
            one.read()
            if time.monotonic() > one.deadline:
                os.killpg(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                yield ended(status, running.pop(pid))
        time.sleep(0.01)


def known(file: Path) -> dict[str, Outcome]:
    """The outcomes of earlier runs, by key."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = (Outcome(**json.loads(line)) for line in lines)
    return {outcome.key: outcome for outcome in found}


def keep(file: Path, outcome: Outcome) -> None:
    """Add an outcome to those of earlier runs."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(outcome)) + "\n")


def forget(file: Path, keys: Collection[str]) -> None:
    """Take outcomes out, so that they are found anew."""
    left = [outcome for key, outcome in known(file).items() if key not in keys]
    file.write_text("".join(json.dumps(asdict(outcome)) + "\n" for outcome in left), encoding="utf-8")


def command_line() -> Callable[[list[str]], int]:
    """``fastgen``'s main function, with everything imported that its commands import."""
    import lightning.pytorch.loggers  # noqa: F401
    import torch

    import fastgen.cli.commands.compare
    import fastgen.cli.commands.export
    import fastgen.cli.commands.pairs
    import fastgen.cli.commands.report
    import fastgen.cli.commands.sample
    import fastgen.cli.commands.scores
    import fastgen.cli.commands.stats  # noqa: F401
    from fastgen.__main__ import main

    torch.set_num_threads(1)
    return main


def run_all(inputs: Sequence[BadInput], file: Path, jobs: int, limits: Limits) -> dict[str, Outcome]:
    """The outcomes of all inputs; those in ``file`` are not run again."""
    done = known(file)
    left = [given for given in inputs if given.key not in done]
    main = command_line()
    begun = time.monotonic()
    for count, outcome in enumerate(outcomes(left, main, jobs, limits), 1):
        keep(file, outcome)
        done[outcome.key] = outcome
        rate = (time.monotonic() - begun) / count
        print(f"\r{count} of {len(left)}, {rate:.2f} s each", end="", file=sys.stderr)
    return {given.key: done[given.key] for given in inputs}
