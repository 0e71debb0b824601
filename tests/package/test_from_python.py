"""The library from Python: the notebook's cells run, and what they give is what the commands give."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import environment, fastgen

ROOT = Path(__file__).parents[2]
NOTEBOOK = json.loads((ROOT / "examples" / "from_python.ipynb").read_text(encoding="utf-8"))
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the notebook's cells leave, run one after the other in an empty folder."""
    found: dict[str, Any] = {"folder": tmp_path_factory.mktemp("notebook")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found["folder"])
        for cell in CELLS:
            if "needs-weights" not in cell["metadata"].get("tags", ()):
                exec("".join(cell["source"]), found)
    return found


def test_a_cell_is_ten_lines_and_keeps_no_output():
    assert all(len(cell["source"]) <= 10 and not cell["outputs"] for cell in CELLS)


def test_the_notebook_trains_samples_and_measures(names: dict[str, Any]):
    assert names["run"].checkpoint.is_file() and names["method"].student_updates == 30
    assert names["student"].shape == (500, 2) and names["student"].isfinite().all()
    teacher, student = names["rows"]
    assert (teacher["role"], student["role"], student["nfe"]) == ("teacher", "average", 1)
    assert student["kinds"]["modes_found"] == {"aspect": "coverage", "better": "higher"}
    assert student["ratio_to_teacher"]["wasserstein2"] > 0


def test_samples_are_those_of_the_command_and_of_the_run(names: dict[str, Any]):
    import fastgen as library

    run, out = names["run"], names["folder"] / "points.safetensors"
    assert fastgen("sample", "--ckpt", run.checkpoint, "--seeds", "0-4", "--out", out, "--device", "cpu") == 0
    from safetensors.torch import load_file

    (points,) = (value for value in load_file(out).values() if value.ndim == 2)
    torch.testing.assert_close(points, names["student"][:5], rtol=0, atol=1e-6)
    torch.testing.assert_close(library.sample(run.method, range(5)), names["student"][:5], rtol=0, atol=1e-6)


def test_numbers_are_those_of_the_callback(names: dict[str, Any], tmp_path: Path):
    """``fastgen validate`` of the same checkpoint with the same seeds says the same."""
    import yaml
    from command_line import trainer, write

    suite = {"class_path": "MixtureMetrics", "init_args": {"distribution": {"class_path": "RingMixture"}}}
    suite["init_args"]["distribution"]["init_args"] = {"process": {"class_path": "EDM"}}
    evaluate = {"class_path": "Evaluate", "init_args": {"suite": suite, "count": 500, "teacher_once": False}}
    config = yaml.safe_load((names["run"].folder / "config.yaml").read_text())
    kept = {key: config[key] for key in ("model", "data")}
    measured = kept | {"trainer": trainer(tmp_path, 1, evaluate, limit_val_batches=1) | {"max_steps": -1}}
    assert (
        fastgen("validate", "--config", write(tmp_path / "c.yaml", measured), "--ckpt_path", names["run"].checkpoint)
        == 0
    )
    (path,) = tmp_path.rglob("metrics.jsonl")
    told = {row["role"]: row["values"] for row in map(json.loads, path.read_text().splitlines())}
    for row in names["rows"]:
        assert row["values"] == pytest.approx(told[row["role"]], rel=1e-6)


def test_mistakes_raise_their_sentence(names: dict[str, Any], tmp_path: Path):
    import fastgen as library
    from fastgen.errors import UserError
    from fastgen.metrics import ImageMetrics, Pixels

    with pytest.raises(UserError, match=r"has no option 'alpa' \(did you mean 'alpha'"):
        library.train(ROOT / "configs" / "sid_mixture.yaml", {"model.init_args.alpa": 1.0})
    with pytest.raises(UserError, match="does not exist"):
        library.load(tmp_path / "nothing.ckpt")
    with pytest.raises(UserError, match="takes no prompts"):
        library.sample(names["method"], range(2), prompts=["a cat"])
    with pytest.raises(UserError, match="no teacher in memory"):
        library.evaluate(library.load(names["run"].checkpoint), ImageMetrics(Pixels(2, 1)), 10, teacher=True)
    with pytest.raises(UserError, match="diffusers"):
        library.to_diffusers(names["method"], tmp_path / "out")


def test_a_strangers_checkpoint_builds_nothing_unasked(names: dict[str, Any], tmp_path: Path):
    import fastgen as library
    from fastgen.checkpoints.seals import seal
    from fastgen.errors import UserError

    checkpoint = torch.load(names["run"].checkpoint, weights_only=True)
    checkpoint["fastgen"]["recipe"]["init_args"]["teacher"] = {"class_path": "my_module.Mine"}
    seal(checkpoint)
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="--trust my_module"):
        library.load(tmp_path / "other.ckpt")


def test_import_is_light_and_lists_what_there_is():
    program = (
        "import sys, fastgen\n"
        "assert {'train', 'load', 'sample', 'evaluate', 'to_diffusers'} <= set(dir(fastgen))\n"
        "assert not {'torch', 'lightning', 'numpy', 'yaml', 'jsonargparse'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True)
