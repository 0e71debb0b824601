import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from toys import build

from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods import ScoreDistiller
from fastgen.randomness import Draws

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "own_method.py"), *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture(scope="module")
def own_method() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_method", EXAMPLES / "own_method.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_method"] = module  # pickling and typing look classes up by module name
    spec.loader.exec_module(module)
    return module


def test_diff_instruct_by_hand(own_method: ModuleType):
    """The gradient in a sample is (mu_fake - mu_real) / B: no normaliser and no weight (arXiv 2305.18455)."""
    method: ScoreDistiller = build(ScoreDistiller, form=own_method.OwnForm())
    method.configure_model()
    asked = []
    method.teacher.register_forward_pre_hook(lambda _, args: asked.append(args))
    piece = MicroBatch(None, {"label": torch.tensor([0, 1, 2, 0])}, Draws(0, range(4), "train"))
    loss = method.student_loss(piece)["match"]
    x = piece.rollouts["student"].x0
    (gradient,) = torch.autograd.grad(loss, x)
    with torch.no_grad():
        gap = method.critic(*asked[0]).x0 - method.teacher(*asked[0]).x0
    torch.testing.assert_close(gradient, gap / 4)
    torch.testing.assert_close(loss, (gap * x).sum() / 4)


def test_the_program_trains_and_samples(tmp_path: Path):
    """From an empty folder, with the file of the example and a shorter run."""
    short = ["--trainer.max_steps=4", "--data.batch_size=16"]
    fit = run(tmp_path, "fit", f"--config={EXAMPLES / 'own_method.yaml'}", *short)
    assert fit.returncode == 0, fit.stderr[-2000:]
    (last,) = tmp_path.glob("runs/own_method/version_0/checkpoints/last.ckpt")
    saved = torch.load(last, weights_only=True)
    assert saved["fastgen"]["recipe"]["init_args"]["form"] == {"class_path": "own_method.OwnForm"}
    assert saved["fastgen"]["iteration"] == 4
    sample = run(tmp_path, "sample", f"--ckpt={last}", "--seeds=0-15", "--out=points.png")
    assert sample.returncode == 0, sample.stderr[-2000:]
    assert (tmp_path / "points.png").stat().st_size > 1000
