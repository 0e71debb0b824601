"""A training on a CPU keeps the memory that its updates free, and gives it back at its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from toys import ToyData, build, trainer

from fastgen.distiller import memory, updates
from fastgen.methods import DMD2

PIECES = """
import resource, runpy
memory = runpy.run_path({path!r})

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [bytearray(b"x") * (8 << 20) for _ in range(8)]
    del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for call in ({calls}):
    call()
print(*(faults() for _ in range(4)))
heap = open("/proc/self/smaps").read().partition("[heap]")[2].split("[stack]")[0]
print(sum(int(line.split()[1]) for line in heap.splitlines() if line.startswith("AnonHugePages")))
print(open("/proc/self/statm").read().split()[1])
memory["give_back_freed_memory"]()
print(open("/proc/self/statm").read().split()[1])
"""


def run(calls: str) -> tuple[list[int], int, int, int]:
    """Page faults of four rounds that use 64 MB, kB on large pages, resident pages before and after the end."""
    code = PIECES.format(path=memory.__file__, calls=calls)
    first, large, before, after = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [int(number) for number in first.split()], int(large), int(before), int(after)


@pytest.mark.skipif(memory.glibc() is None, reason="another C library")
def test_what_is_freed_is_kept_until_it_is_given_back():
    pages = (64 << 20) // 4096
    kept, large, before, after = run('memory["keep_freed_memory"],')
    assert max(kept[1:]) < 0.1 * pages
    assert before - after > 0.9 * pages
    choice = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if choice.exists() and "[never]" not in choice.read_text(encoding="utf-8"):
        assert large > 48 << 10
    usual, *_ = run("")
    assert usual[-1] > 0.9 * pages, "glibc gives it back by itself"


def test_a_fit_keeps_and_gives_back(monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    for name in ("keep_freed_memory", "give_back_freed_memory"):
        monkeypatch.setattr(updates, name, lambda name=name: said.append(name))
    method = build(DMD2)
    trainer(1).fit(method, ToyData(batch_size=4))
    assert said == ["keep_freed_memory", "give_back_freed_memory"]
