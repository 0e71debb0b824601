"""The suite of text and perceptual metrics: what evaluations give it, what YAML names, two ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_clip
import torch
import torchvision
from jsonargparse import ArgumentParser
from tiny_clip import PROMPTS, pictures

from fastgen.errors import UserError
from fastgen.metrics.base import MetricSuite
from fastgen.metrics.suites.text_suite import TextImageMetrics
from fastgen.metrics.text.perceptual import PairwiseLPIPS, TeacherAlignment
from fastgen.metrics.text.text_image import AestheticScore, CLIPScore, HPSv2
from fastgen.results.former_names import kind_by_name


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("suite")
    tiny_clip.register(folder)
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), folder / "squeeze.pth")
    torch.save(torch.nn.Linear(16, 1).state_dict(), folder / "head.pth")
    return {
        "clip": tiny_clip.save(tiny_clip.model().state_dict(), folder / "clip.pt"),
        "squeeze": str(folder / "squeeze.pth"),
        "head": str(folder / "head.pth"),
    }


def make(files: dict[str, str]) -> TextImageMetrics:
    return TextImageMetrics(
        [
            CLIPScore(tiny_clip.NAME, files["clip"], tag=None),
            HPSv2(files["clip"], styles=["anime", "photo"], model=tiny_clip.NAME),
            AestheticScore(files["head"], files["clip"], tiny_clip.NAME, tag=None),
            PairwiseLPIPS("squeeze", files["squeeze"], size=40),
            TeacherAlignment("squeeze", files["squeeze"]),
        ],
        batch_size=4,
    )


def observe(suite: TextImageMetrics, images: torch.Tensor, rows: range) -> None:
    prompts = [PROMPTS[i % 5] for i in rows]
    condition = {"prompt": prompts, "style": [("anime", "photo")[i % 2] for i in rows]}
    suite.observe(images[rows.start : rows.stop], condition, [1000 + i for i in rows])


def test_all_numbers(files: dict[str, str]) -> None:
    suite, images = make(files), pictures(10, 40, 40)
    suite.set_reference(None)
    suite.remember_teacher(images[:3], [1000, 1001, 1002])
    in_range = images.float() / 127.5 - 1  # as samplers give them
    observe(suite, in_range, range(6))
    observe(suite, in_range, range(6, 10))
    numbers = suite.compute()
    assert numbers["teacher_psnr"] == pytest.approx(100.0) and numbers["teacher_pair_count"] == 3.0
    assert numbers["lpips_condition_count"] == 5.0 and numbers["lpips_diversity"] > 0
    for name in ("clip_score", "hps_v2.1", "hps_v2.1_anime", "hps_v2.1_photo", "aesthetic"):
        assert name in numbers
    # A fidelity number never stands alone.
    assert {"clip_score_diversity", "hps_v2.1_diversity", "aesthetic_diversity"} < numbers.keys()
    assert {name: suite.kinds()[name] for name in numbers} == {name: kind_by_name(name) for name in numbers}
    direct = CLIPScore(tiny_clip.NAME, files["clip"], tag=None)
    direct.update(images, PROMPTS * 2)
    assert numbers["clip_score"] == pytest.approx(direct.compute()["clip_score"], rel=1e-6)
    assert all(metric.state_dict() == {} for metric in suite.metrics().values())
    assert suite.fingerprint().count("sha256:") == 5
    suite.reset()
    observe(suite, images, range(2))
    assert suite.compute()["teacher_pair_count"] == 2.0  # the teacher's samples are kept


def test_a_stopped_evaluation_goes_on(files: dict[str, str]) -> None:
    images = pictures(10, 40, 40)
    whole, first, second = make(files), make(files), make(files)
    observe(whole, images, range(10))
    observe(first, images, range(4))
    observe(second, images, range(4, 10))
    second.add_partial_state(first.partial_state())
    assert second.compute() == pytest.approx(whole.compute(), rel=1e-9)


def test_labels_instead_of_prompts(files: dict[str, str]) -> None:
    head = AestheticScore(files["head"], files["clip"], tiny_clip.NAME, tag=None)
    suite = TextImageMetrics([head, PairwiseLPIPS("squeeze", files["squeeze"], size=40)])
    suite.update(pictures(8, 40, 40), torch.arange(8) % 2)
    numbers = suite.compute()
    assert numbers["lpips_condition_count"] == 2.0 and "aesthetic" in numbers


def test_mistakes_are_named(files: dict[str, str]) -> None:
    with pytest.raises(UserError, match="need prompts"):
        make(files).observe(pictures(2), {"label": torch.arange(2)}, [0, 1])
    with pytest.raises(UserError, match="two metrics that give 'clip_score'"):
        TextImageMetrics([CLIPScore(tiny_clip.NAME, files["clip"], tag=None) for _ in range(2)])
    with pytest.raises(UserError, match="does not see a collapse"):
        TextImageMetrics([TeacherAlignment(None)])


def test_a_yaml_names_everything(files: dict[str, str]) -> None:
    clip = {"model": tiny_clip.NAME, "weights": files["clip"], "tag": None}
    config: dict[str, Any] = {
        "class_path": "fastgen.metrics.TextImageMetrics",
        "init_args": {
            "metrics": [
                {"class_path": "fastgen.metrics.CLIPScore", "init_args": clip | {"prefix": "a photo of "}},
                {"class_path": "fastgen.metrics.HPSv2", "init_args": {"styles": ["anime", "photo"]}},
                {"class_path": "fastgen.metrics.PickScore"},
                {"class_path": "fastgen.metrics.AestheticScore", "init_args": {"head": files["head"]}},
                {"class_path": "fastgen.metrics.PairwiseLPIPS", "init_args": {"backbone": "squeeze"}},
                {"class_path": "fastgen.metrics.TeacherAlignment", "init_args": {"backbone": None, "count": 8}},
            ],
        },
    }
    parser = ArgumentParser()
    parser.add_argument("--suite", type=MetricSuite)
    suite = parser.instantiate_classes(parser.parse_object({"suite": config})).suite
    assert isinstance(suite, TextImageMetrics)
    assert [*suite.metrics()][:4] == ["clip_score", "hps_v2.1", "pick_score", "aesthetic"]
    assert suite.wants_teacher == 8
    for extractor in ("Inception", "NvidiaInception", "DinoV2", "OpenClipFeatures"):
        config = {
            "class_path": "fastgen.metrics.ImageMetrics",
            "init_args": {"extractor": f"fastgen.metrics.{extractor}"},
        }
        suite = parser.instantiate_classes(parser.parse_object({"suite": config})).suite
        assert suite.extractor.num_features in (2048, 1024, 768)


def share(suite: TextImageMetrics, mine: range) -> dict[str, float]:
    """The numbers over all ranks, this one having seen the pictures ``mine`` of twenty."""
    images = pictures(20, 40, 40)
    suite.remember_teacher(pictures(8, 40, 40, seed=1), range(1000, 1008))
    for start in range(mine.start, mine.stop, 6):
        observe(suite, images, range(start, min(start + 6, mine.stop)))
    return suite.compute()


SPLITS = (13, 20)  # uneven shares; one rank without any sample

PROGRAM = """
import json, sys
from pathlib import Path
import torch
import torch.distributed as dist
import tiny_clip
from test_text_suite import SPLITS, make, share

rank, store, files = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
torch.set_num_threads(1)
tiny_clip.register(Path(store).parent)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
for first in SPLITS:
    print(json.dumps(share(make(files), range(first) if rank == 0 else range(first, 20))))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.distributed
def test_two_ranks_equal_one(files: dict[str, str], tmp_path: Path) -> None:
    alone = share(make(files), range(20))
    assert alone["teacher_pair_count"] == 8.0
    program, tests = tmp_path / "program.py", Path(__file__).parent
    program.write_text(
        f"import sys\nsys.path[:0] = {[str(tests), str(tests.parent), str(tests.parent / 'support')]!r}\n{PROGRAM}"
    )
    commands = [
        [sys.executable, str(program), str(rank), str(tmp_path / "store"), json.dumps(files)] for rank in range(2)
    ]
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    results = [process.communicate(timeout=400) for process in running]
    assert all(process.returncode == 0 for process in running), results
    for out, _ in results:
        for line in out.splitlines()[-len(SPLITS) :]:
            # The sums are exact; a network rounds by the size of its batch, so the shares differ by that.
            assert json.loads(line) == pytest.approx(alone, rel=1e-5)
