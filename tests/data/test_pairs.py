"""Pairs from the command that writes them to the method that reads them."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from command_line import EDM, checkpoint, fastgen, last, start, trainer, unshared, write
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastgen.checkpoints.reading import method_from_checkpoint
from fastgen.data import Mixture, Pairs, Prompts
from fastgen.denoisers import RingMixture
from fastgen.errors import UserError
from fastgen.processes import EDM as EDMProcess
from fastgen.randomness import Draws
from fastgen.storage.pair_files import read_manifest
from fastgen.storage.pair_folder import PairFolder

MEAN, COVARIANCE = [0.5, -0.3], [[0.9, 0.3], [0.3, 0.5]]
GAUSSIAN = {"class_path": "GaussianDenoiser", "init_args": {"process": EDM, "mean": MEAN, "covariance": COVARIANCE}}
CLASSES = {
    "class_path": "MixtureDenoiser",
    "init_args": {"process": EDM, "means": [[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], "std": 0.3, "classes": [0, 1, 2]},
}


def config(folder: Path, teacher: dict[str, Any] = GAUSSIAN, steps: int = 4, **data: Any) -> Path:
    folder.mkdir(exist_ok=True)
    student = {"process": EDM, "width": 16, "depth": 1, "num_classes": 3 if teacher is CLASSES else 0}
    found = {
        "threads": 1,
        "trainer": trainer(folder, steps, checkpoint()),
        "model": {
            "class_path": "KD",
            "init_args": {
                "teacher": teacher,
                "student": {"class_path": "MLP", "init_args": student},
                "solver": {"class_path": "Heun", "init_args": {"steps": 6}},
            },
        },
        "data": {
            "class_path": "Pairs",
            "init_args": {"path": str(folder / "pairs"), "held_out_count": 10, "batch_size": 8, **data},
        },
    }
    return write(folder / "config.yaml", unshared(found))


def make(file: Path, *words: object, out: str = "pairs") -> Path:
    folder = file.parent / out
    assert fastgen("pairs", "--config", file, "--out", folder, "--shard-size=16", "--batch-size=8", *words) == 0
    return folder


def contents(folder: Path) -> dict[str, dict[str, Tensor]]:
    return {path.name: load_file(path) for path in sorted(folder.glob("pairs-*.safetensors"))}


def same(one: Path, other: Path) -> bool:
    left, right = contents(one), contents(other)
    return left.keys() == right.keys() and all(
        left[n].keys() == right[n].keys() and all(torch.equal(left[n][k], right[n][k]) for k in left[n]) for n in left
    )


def test_pairs_lie_on_the_exact_flow_map(tmp_path: Path):
    folder = make(config(tmp_path), "--count=40", "--steps=256", "--with-noise")
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        *(f"pairs-0000{i}.safetensors" for i in range(3)),
    ]
    shards = list(contents(folder).values())
    assert [len(shard["x0"]) for shard in shards] == [16, 16, 8]
    seed, noise, x0 = (torch.cat([shard[name] for shard in shards]) for name in ("seed", "noise", "x0"))
    assert seed.tolist() == list(range(10**9, 10**9 + 40))
    torch.testing.assert_close(noise, Draws(0, seed.tolist(), "sample").normal("noise", (2,)), rtol=0, atol=0)
    mean, covariance = (torch.tensor(values, dtype=torch.float64) for values in (MEAN, COVARIANCE))
    exact = oracles.flow_map(mean, covariance, 80.0 * noise.double(), 1.0, 80.0)
    assert (x0 - exact).abs().max() < 1e-3  # fp32 at noise level 80
    manifest = read_manifest(folder)
    assert manifest["calls"] == 511 and manifest["network"].startswith("GaussianDenoiser ")


def test_the_data_module_gives_every_pair_its_noise(tmp_path: Path):
    file = config(tmp_path, CLASSES)
    seeds, noise = make(file, "--count=50"), make(file, "--count=50", "--with-noise", out="noise")
    for folder in (seeds, noise):
        data = Pairs(str(folder), held_out_count=10, batch_size=20)
        loader = iter(data.train_dataloader())
        batches = [next(loader), next(loader)]
        found = torch.cat([batch["x0"] for batch in batches])
        stored = torch.cat([shard["x0"] for shard in contents(folder).values()])
        order = [int((stored == x).all(1).nonzero()) for x in found]
        assert sorted(order) == list(range(40)) != order, "an epoch is a permutation of all but the held-out pairs"
        assert all(batch["encoded"] is True for batch in batches)
        expected = Draws(0, [10**9 + i for i in order], "sample").normal("noise", (2,))
        assert torch.equal(torch.cat([batch["noise"] for batch in batches]), expected)
        assert torch.equal(torch.cat([b["condition"]["label"] for b in batches]), torch.tensor(order) % 3)
        for loader, rows in ((data.val_dataloader(), stored[40:45]), (data.test_dataloader(), stored[45:])):
            (held_out,) = loader
            assert torch.equal(held_out["x0"], rows)
        assert data.num_classes == 3 and data.sample_kind == "points" and data.reference() is None


def test_a_pair_does_not_depend_on_its_batch_and_equals_the_sample_of_its_seed(tmp_path: Path):
    file = config(tmp_path, CLASSES)
    big, small = make(file, "--count=20"), make(file, "--count=20", "--batch-size=3", out="small")
    left, right = (torch.cat([shard["x0"] for shard in contents(f).values()]) for f in (big, small))
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)
    assert fastgen("fit", "--config", file) == 0
    method = method_from_checkpoint(last(tmp_path), with_teacher=True)
    again = method.sample(range(10**9, 10**9 + 16), {"label": torch.arange(16) % 3}, role="teacher")
    torch.testing.assert_close(left[:16], again, rtol=1e-5, atol=1e-6)


def test_an_interrupted_command_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = config(tmp_path)
    whole, broken = make(file, "--count=40"), make(file, "--count=40", out="broken")
    kept = broken / "pairs-00000.safetensors"
    (broken / "pairs-00001.safetensors").unlink()
    (broken / "pairs-00002.safetensors").write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"1 of the 3 shards .* missing, first 'pairs-00001"):
        Pairs(str(broken), held_out_count=4).setup()
    before = kept.stat().st_mtime_ns
    make(file, "--count=40", out="broken")
    assert same(whole, broken) and kept.stat().st_mtime_ns == before
    # A larger count extends the folder; only the last, shorter shard is made again.
    make(file, "--count=70", out="broken")
    assert PairFolder(broken).count == 70 and kept.stat().st_mtime_ns == before
    assert same(make(file, "--count=70", out="seventy"), broken)
    # Several processes share the work.
    for part in ("2/3", "0/3", "1/3"):
        make(file, "--count=70", f"--part={part}", out="parts")
    assert same(tmp_path / "seventy", tmp_path / "parts")
    capsys.readouterr()
    assert fastgen("pairs", "--config", file, "--out", broken, "--shard-size=16", "--first-seed=5") == 2
    assert "another first_seed (1000000000, now 5)" in capsys.readouterr().err


def test_a_killed_command_leaves_whole_shards_only(tmp_path: Path):
    file = config(tmp_path)
    words = ["pairs", "--config", file, "--out", tmp_path / "killed", "--shard-size=64", "--count=100000"]
    process = start(*words)
    while not list((tmp_path / "killed").glob("pairs-*")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert all(len(shard["x0"]) == 64 for shard in contents(tmp_path / "killed").values())


def test_training_on_pairs_resumes_bit_identically(tmp_path: Path):
    """With workers, which map the files themselves."""
    straight = config(tmp_path / "straight", steps=6)
    make(straight, "--count=40")
    assert fastgen("fit", "--config", straight) == 0
    stopped = config(tmp_path / "stopped", steps=6, path=str(tmp_path / "straight" / "pairs"), num_workers=2)
    assert fastgen("fit", "--config", stopped, "--trainer.max_steps=3") == 0
    assert fastgen("fit", "--config", stopped, "--ckpt_path", last(tmp_path / "stopped")) == 0
    one, other = (torch.load(last(f, v), weights_only=True) for f, v in ((straight.parent, 0), (stopped.parent, 1)))
    assert one["global_step"] == other["global_step"] == 6
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())


def test_pairs_of_a_student_make_the_next_reflow(tmp_path: Path):
    file = config(tmp_path)
    make(file, "--count=40")
    assert fastgen("fit", "--config", file) == 0
    folder = tmp_path / "second"
    words = ["--out", folder, "--count=8", "--steps=3", "--role=student"]
    assert fastgen("pairs", "--ckpt", last(tmp_path), *words) == 0
    (shard,) = contents(folder).values()
    expected = method_from_checkpoint(last(tmp_path)).sample(range(10**9, 10**9 + 8), {}, 3, "student")
    torch.testing.assert_close(shard["x0"], expected, rtol=1e-5, atol=1e-6)
    assert json.loads((folder / "manifest.json").read_text())["calls"] == 3


def test_like_gives_conditions_and_references(tmp_path: Path):
    folder = make(config(tmp_path), "--count=40")
    like = Mixture(lambda: RingMixture(EDMProcess()), reference_count=16)
    data = Pairs(str(folder), like=like, held_out_count=4)
    assert torch.equal(data.reference()["samples"], like.reference()["samples"]) and data.num_classes is None
    prompts = Pairs(str(folder), like=Prompts("asset:prompts_toy.txt"))
    assert len(prompts.evaluation_conditions([0, 1])["prompt"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --config FILE"),
        (["--config", "{}", "--ckpt", "x.ckpt"], "give either --config FILE"),
        (["--config", "{}", "--count=0"], "--count must be at least 1"),
        (["--config", "{}", "--part=3/3"], "--part is i/n"),
        (["--config", "{}", "--role=average"], "give --ckpt"),
        (["--config", "{}", "--labels=0-2"], "takes no labels"),
        (["--config", "{}", "--model.init_args.slover=Euler"], "slover"),
        (["--config", "{}", "--out", "."], "was not made by 'fastgen pairs'"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    file = config(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert fastgen("pairs", *[word.format(file) for word in words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and "Traceback" not in err, err


def test_what_a_shard_holds_beside_its_pairs_is_left_alone(tmp_path: Path):
    folder = make(config(tmp_path), "--count=8")
    (shard,) = folder.glob("*.safetensors")
    save_file(load_file(shard) | {"more": torch.zeros(3)}, shard)
    assert sorted(PairFolder(folder).read([5])) == ["seed", "x0"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="fastgen pairs"):
        Pairs(str(tmp_path)).setup()
    folder = make(config(tmp_path), "--count=8")
    with pytest.raises(UserError, match="held_out_count = 256"):
        Pairs(str(folder)).setup()
