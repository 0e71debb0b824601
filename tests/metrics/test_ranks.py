"""Two processes with uneven shares say what one process says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
import torch
import torch.distributed as dist
from fastgen.denoisers.exact.mixtures import RingMixture
from fastgen.metrics import CMMD, FrechetDistance, ImageMetrics, InceptionScore, MixtureMetrics, Pixels, VendiScore
from fastgen.processes import EDM

class Classifier(Pixels):
    def logits(self, features):
        return 5 * features[:, :3]

rank, world_size, first, store = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
if world_size > 1:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
g = torch.Generator().manual_seed(0)
reference = {"samples": torch.rand(80, 1, 4, 4, generator=g) * 2 - 1, "label": torch.arange(80) % 2}
images, label = torch.rand(60, 1, 4, 4, generator=g) * 1.8 - 0.9, torch.arange(60) % 2
points = RingMixture(EDM(), num_classes=2).sample(60, g, label)
mine = slice(0, 60) if world_size == 1 else slice(0, first) if rank == 0 else slice(first, 60)
image, mixture = ImageMetrics(Pixels(4, 1)), MixtureMetrics(lambda: RingMixture(EDM(), num_classes=2))
others = [CMMD(), VendiScore(), InceptionScore()]
more, teacher, sums = (
    ImageMetrics(Classifier(4, 1), metrics=others, prefix="more_"), ImageMetrics(Pixels(4, 1)),
    ImageMetrics(Pixels(2, 1), metrics=[FrechetDistance()], prefix="sums_"),
)
image.set_reference(reference)
more.set_reference(reference)
for suite in (teacher, sums):
    suite.update(0.9 * images[mine] ** 3, label[mine])
    suite.refer_to_teacher()
for start in range(mine.start, mine.stop, 13):
    rows = slice(start, min(start + 13, mine.stop))
    for suite in (image, more, teacher, sums):
        suite.update(images[rows], label[rows])
    mixture.update(points[rows], label[rows])
suites = (image, more, teacher, sums, mixture)
print(json.dumps({name: value for suite in suites for name, value in suite.compute().items()}))
if world_size > 1:
    dist.barrier()
    dist.destroy_process_group()
"""


def numbers(folder: Path, world_size: int, first: int) -> list[dict[str, float]]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    store = folder / f"store{first}"
    commands = [
        [sys.executable, str(program), str(r), str(world_size), str(first), str(store)] for r in range(world_size)
    ]
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    results = [process.communicate(timeout=400) for process in running]
    assert all(process.returncode == 0 for process in running), results
    return [json.loads(out.splitlines()[-1]) for out, _ in results]


@pytest.mark.distributed
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    (alone,) = numbers(tmp_path, 1, 60)
    for first in (47, 60):  # uneven shares; one rank without any sample
        for together in numbers(tmp_path, 2, first):
            for name in ("frechet", "frechet_to_teacher", "sums_frechet_to_teacher", "more_vendi"):
                assert together[name] == pytest.approx(alone[name], rel=1e-12)
            assert together == pytest.approx(alone, rel=1e-9, abs=1e-12)
