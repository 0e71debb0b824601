"""Runs tests against one mutation at a time, in forks of a process that has imported the large libraries already."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIBRARIES = (
    "numpy",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "diffusers",
    "transformers",
    "peft",
    "pytest",
)
LAZY = (
    "diffusers.models",
    "diffusers.schedulers",
    "diffusers.pipelines.pipeline_utils",
    "torchmetrics.image",
    "jsonargparse",
    "lightning.pytorch.cli",
    "sklearn.datasets",
    "scipy.linalg",
    "PIL.Image",
)


def preload() -> None:
    """Import what every test would import; fastgen itself is imported from the mutated copy."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in (*LIBRARIES, *LAZY):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    gc.freeze()  # pytest collects garbage twice a run: more seconds than most tests take


def copy_tree(root: Path, target: Path) -> None:
    """The files that git knows or would take, as they are now."""
    command = ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        source = root / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


class _First:
    """Notes the first test that fails."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.note(report)

    def pytest_collectreport(self, report: Any) -> None:
        self.note(report)

    def note(self, report: Any) -> None:
        if report.failed and not self.path.exists():
            self.path.write_text(report.nodeid)


def _test(copy: Path, tests: Sequence[str], options: Sequence[str], note: Path, log: Path, seconds: int) -> int:
    """In the fork: pytest on the copy, file by file; what comes later is not even imported after a failure."""
    os.setpgid(0, 0)  # to be killed with what it starts, at this program's own priority
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    here = str(Path(__file__).resolve().parents[2])
    sys.path[:] = [str(copy), *(p for p in sys.path if p not in ("", here))]
    for name in [n for n in sys.modules if n.split(".")[0] in ("benchmarks", "fastgen")]:
        del sys.modules[name]
    import pytest

    # In this very process: workers of their own would import everything again.
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--assert=plain", *options]
    for test in tests:
        path, _, expression = test.partition(" -k ")
        chosen = ["-k", expression] if expression else []
        code = int(pytest.main([*options, *chosen, path], plugins=[_First(note)]))
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return code
    return 0


class Copy:
    """A copy of the tree in which mutations live, one at a time.

    Args:
        root: The repository.
        seconds: CPU seconds after which tests are stopped, and a tenth of the clock's; nothing is said then.
    """

    def __init__(self, root: Path, seconds: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mutations-"))
        self.tree = self.folder / "tree"
        self.seconds = seconds
        copy_tree(root, self.tree)
        # By the hash of the source: a mutation may come within a second and change no size.
        command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "fastgen", "tests"]
        subprocess.run(command, cwd=self.tree, check=True)

    def run(self, tests: Sequence[str], options: Sequence[str] = (), slack: int = 1) -> dict[str, Any]:
        """``{"passed", "by", "seconds"}`` of the tests on the tree as it is, in their order; maybe ``slack`` times."""
        seconds, note, log = slack * self.seconds, self.folder / "first", self.folder / "log"
        note.unlink(missing_ok=True)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            code = 3
            try:
                code = _test(self.tree, tests, options, note, log, seconds)
            finally:
                os._exit(code)
        late = False
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() - began > 10 * seconds:
                late = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
                break
            time.sleep(0.02)
        late = late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL))
        by = "time" if late else note.read_text() if note.exists() else "" if status == 0 else "import"
        return {"passed": status == 0 and not late, "by": by, "seconds": round(time.monotonic() - began, 1)}

    def mutated(self, file: str, source: str, tests: Sequence[str], options: Sequence[str] = ()) -> dict[str, Any]:
        """As :meth:`run`, with ``source`` as ``file``."""
        path = self.tree / file
        before = path.read_bytes()
        try:
            path.write_text(source, encoding="utf-8")
            return self.run(tests, options)
        finally:
            path.write_bytes(before)

    def remove(self) -> None:
        """Delete the copy."""
        shutil.rmtree(self.folder, ignore_errors=True)
