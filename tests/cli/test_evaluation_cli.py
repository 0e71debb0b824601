"""Evaluations as users start them: every mistake is one sentence before anything is sampled; a killed one goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_clip
import torch
from command_line import checkpoint, digits, fastgen, finish, last, start, trainer, unplug, write
from safetensors import safe_open
from safetensors.torch import save_file

from fastgen.methods import Distiller


def named(kind: str, **options: Any) -> dict[str, Any]:
    return {"class_path": kind, "init_args": options}


def images(extractor: dict[str, Any], **options: Any) -> dict[str, Any]:
    return named("ImageMetrics", extractor=extractor, **options)


def score(kind: str, **options: Any) -> dict[str, Any]:
    return named("TextImageMetrics", metrics=[named(kind, **options)])


GREY = named("Pixels", channels=1)
LPIPS = named("PairwiseLPIPS")
BOTH = named("CombinedMetrics", suites=[images(GREY), named("TextImageMetrics", metrics=[LPIPS])])
ALIGNED = named("TextImageMetrics", metrics=[LPIPS, named("TeacherAlignment", backbone="vgg")])
OFFLINE = {
    "Inception": (images(named("Inception")), "weights-inception-2015-12-05-6726825d.pth"),
    "NvidiaInception": (images(named("NvidiaInception")), "inception-2015-12-05.pt"),
    "patch": (images(named("CentreCrop", extractor=named("NvidiaInception"))), "inception-2015-12-05.pt"),
    "DINOv2": (images(named("DinoV2")), "model.safetensors"),
    "timm": (images(named("TimmFeatures", model="resnet18.a1_in1k")), "model.safetensors"),
    "open_clip": (images(named("OpenClipFeatures"), metrics=["CMMD", "VendiScore"]), "open_clip_model.safetensors"),
    "CLIP score": (score("CLIPScore"), "open_clip_model.safetensors"),
    "HPSv2": (score("HPSv2"), "HPS_v2.1_compressed.pt"),
    "PickScore": (score("PickScore"), "model.safetensors"),
    "aesthetic": (score("AestheticScore"), "open_clip_model.safetensors"),
    "LPIPS": (named("TextImageMetrics", metrics=[LPIPS]), "alexnet-owt-7be5be79.pth"),
    "LPIPS beside others": (BOTH, "alexnet-owt-7be5be79.pth"),
    "alignment": (ALIGNED, "alexnet-owt-7be5be79.pth"),
}


def evaluation(folder: Path, suite: dict[str, Any], **options: Any) -> Path:
    """A run of digits that only evaluates."""
    callback = named("Evaluate", **{"suite": suite, "count": 40, "batch_size": 20, "teacher_once": False} | options)
    config = digits(folder)
    config["trainer"] = trainer(folder, 2, callback, limit_test_batches=1)
    return write(folder / "run.yaml", config)


def sentence(capfd: pytest.CaptureFixture[str], code: int) -> str:
    """The one sentence on standard error."""
    err = capfd.readouterr().err
    assert code == 2, err
    (line,) = [line for line in err.splitlines() if line.startswith("fastgen")]
    assert line.endswith(".") and "Traceback" not in err
    return line


@pytest.fixture
def nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sample and no training batch."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("something was sampled or trained")

    monkeypatch.setattr(Distiller, "sample", refuse)
    monkeypatch.setattr(Distiller, "training_step", refuse)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unplug(monkeypatch, tmp_path)


@pytest.mark.parametrize("name", OFFLINE)
def test_missing_weights(name: str, offline: None, nothing_is_made: None, tmp_path: Path, capfd):
    suite, file = OFFLINE[name]
    said = sentence(capfd, fastgen("fit", "--config", evaluation(tmp_path, suite)))
    assert f"needs the file '{file}'" in said and "cannot be downloaded" in said
    assert said.endswith("and give its path as 'weights'.")


def reference(folder: Path) -> Path:
    """What ``fastgen stats`` makes of the digits."""
    out = folder / "digits.safetensors"
    config = write(folder / "data.yaml", digits(folder))
    words = ["--extractor=Pixels", "--extractor.channels=1", "--features", f"--out={out}", "--device=cpu"]
    assert fastgen("stats", f"--data={config}", *words) == 0
    return out


def truncated(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:2000])
    return path


def one_number_changed(path: Path) -> Path:
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors["total"][3] += 1
    save_file(tensors, path, metadata)
    return path


def no_moments(path: Path) -> Path:
    np.savez(path.with_suffix(".npz"), images=np.zeros(3))
    return path.with_suffix(".npz")


BAD_REFERENCES = {
    "missing": (lambda path: path.with_name("absent.safetensors"), {}, "absent.safetensors"),
    "truncated": (truncated, {}, "digits.safetensors"),
    "changed": (one_number_changed, {}, "is damaged"),
    "npz without moments": (no_moments, {}, "has no mu and sigma"),
    "another extractor": (lambda path: path, {"extractor": named("DigitsClassifier")}, "was made by plumbing_pixels"),
    "another size": (lambda path: path, {"extractor": named("Pixels", size=4, channels=1)}, "was made by"),
    "another count": (lambda path: path, {"reference_count": 50_000}, "stands for 1437 images, not for 50000"),
}


@pytest.mark.parametrize("name", BAD_REFERENCES)
def test_bad_references(name: str, nothing_is_made: None, tmp_path: Path, capfd):
    spoil, options, says = BAD_REFERENCES[name]
    path = spoil(reference(tmp_path))
    capfd.readouterr()
    suite = images(**{"extractor": GREY, "reference": str(path)} | options)
    assert says in sentence(capfd, fastgen("fit", "--config", evaluation(tmp_path, suite)))


@pytest.mark.parametrize("file", [False, True])
def test_fidelity_without_coverage_is_refused(file: bool, nothing_is_made: None, tmp_path: Path, capfd):
    """By choice, or because the reference holds moments only and the rest was left out."""
    moments = tmp_path / "moments.npz"
    np.savez(moments, mu=np.zeros(64), sigma=np.eye(64))
    chosen = {"reference": str(moments), "metrics": ["FrechetDistance"]} if file else {"metrics": ["KernelDistance"]}
    said = sentence(capfd, fastgen("fit", "--config", evaluation(tmp_path, images(GREY, **chosen))))
    assert "no coverage" in said and "VendiScore" in said


def test_moments_alone_are_not_enough_for_the_default_metrics(nothing_is_made: None, tmp_path: Path, capfd):
    moments = tmp_path / "moments.npz"
    np.savez(moments, mu=np.zeros(64), sigma=np.eye(64))
    said = sentence(capfd, fastgen("fit", "--config", evaluation(tmp_path, images(GREY, reference=str(moments)))))
    assert "FrechetRatio, KernelDistance, PrecisionRecall need the features of single images" in said


def test_scores_of_prompts_without_prompts(nothing_is_made: None, tmp_path: Path, capfd):
    tiny_clip.register(tmp_path)
    weights = tiny_clip.save(tiny_clip.model().state_dict(), tmp_path / "clip.pt")
    suite = score("CLIPScore", model=tiny_clip.NAME, weights=weights, tag=None)
    said = sentence(capfd, fastgen("fit", "--config", evaluation(tmp_path, suite)))
    assert "clip_score need prompts and the data module has none" in said


def test_two_evaluations_stand_side_by_side(tmp_path: Path, capfd):
    """Each under its own name; one name for both is one sentence."""
    config = digits(tmp_path)
    first = named("Evaluate", suite=images(GREY, metrics=["VendiScore"]), count=20, name="eval")
    second = named("Evaluate", suite=images(named("DigitsClassifier")), count=30, name="digits", teacher=False)
    config["trainer"] = trainer(tmp_path, 1, checkpoint())
    assert fastgen("fit", "--config", write(tmp_path / "run.yaml", config)) == 0
    config["trainer"] = trainer(tmp_path, 1, first, second, limit_test_batches=1)
    words = ["--config", write(tmp_path / "run.yaml", config), "--ckpt_path", last(tmp_path)]
    assert fastgen("test", *words) == 0
    out = capfd.readouterr().out
    assert "eval/vendi" in out and "digits/frechet" in out
    second["init_args"]["name"] = "eval"
    said = sentence(capfd, fastgen("fit", "--config", write(tmp_path / "run.yaml", config)))
    assert "two Evaluate of one name" in said


def rows(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.rglob("metrics.jsonl"))
    return [json.loads(line) for line in files[-1].read_text().splitlines()]


@pytest.mark.distributed
def test_a_killed_evaluation_goes_on(tmp_path: Path):
    """SIGKILL in the middle, the same command again: what an uninterrupted one says, without sampling all anew."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finals = []
    for folder in (whole, parts):
        folder.mkdir()
        run = evaluation(
            folder, images(named("DigitsClassifier")), count=300, batch_size=5, steps=[1, 2], save_every_minutes=0.0
        )
        assert fastgen("fit", "--config", write(folder / "fit.yaml", digits(folder))) == 0
        words = ["test", "--config", run, f"--ckpt_path={last(folder)}"]
        if folder is parts:
            process = start(*words)
            until = time.monotonic() + 300
            while not (found := sorted(folder.rglob("evaluation/*/*.safetensors"))) and time.monotonic() < until:
                assert process.poll() is None, process.communicate()[1][-3000:]
                time.sleep(0.01)
            process.kill()
            assert process.wait() == -9 and found
        finish(start(*words))
        assert not list(folder.rglob("evaluation"))
        finals.append(rows(folder))
    for one, other in zip(*finals, strict=True):
        assert (one["role"], one["steps"], one["nfe"]) == (other["role"], other["steps"], other["nfe"])
    weights = [torch.load(last(folder), weights_only=True)["state_dict"] for folder in (whole, parts)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [row["values"] for row in finals[0]] == [row["values"] for row in finals[1]]
    assert [row["steps"] for row in finals[0]] == [None, 1, 2]
