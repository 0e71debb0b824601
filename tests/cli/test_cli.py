"""The command from end to end: help, configs, every subcommand, pictures."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import (
    CONFIGS,
    ROOT,
    assert_same_training,
    digits,
    environment,
    fastgen,
    few_of,
    finish,
    last,
    load,
    mixture,
    start,
    write,
)
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from fastgen import __version__
from fastgen.checkpoints.reading import method_from_checkpoint
from fastgen.conditions import Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.methods import Distiller, SiD
from fastgen.methods.recipes import RecipeParser
from fastgen.objectives.score_forms import SiDForm
from fastgen.objectives.weights import UniformWeight
from fastgen.pictures.grids import CELL, GAP
from fastgen.randomness import Draws
from fastgen.sampling.samplers import RenoiseSampler

LIGHT = """
import sys
from fastgen.__main__ import main
code = main(sys.argv[1:])
heavy = sorted(set(sys.modules) & {"torch", "lightning", "numpy", "yaml", "jsonargparse"})
sys.exit(code or (3 if heavy else 0))
"""


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["-h"], []])
def test_version_and_help_are_quick(words: list[str]):
    seconds = []
    for _ in range(3):  # the machine may be busy
        began = time.perf_counter()
        answer = subprocess.run(
            [sys.executable, "-c", LIGHT, *words], env=environment(), capture_output=True, text=True, check=False
        )
        seconds.append(time.perf_counter() - began)
        assert answer.returncode == 0, answer.stderr
    assert min(seconds) < 1.0
    wanted = f"fastgen {__version__}\n" if words == ["--version"] else "usage: fastgen COMMAND"
    assert answer.stdout.startswith(wanted)


@pytest.fixture
def no_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Denoiser, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{type(self).__name__} was built")

    monkeypatch.setattr(Denoiser, "__init__", refuse)


@pytest.mark.parametrize("path", CONFIGS[::15], ids=lambda path: path.stem)  # test_components.py prints them all
def test_print_config_resolves_and_builds_nothing(path: Path, no_networks: None, capsys: pytest.CaptureFixture[str]):
    assert fastgen("fit", "--config", path, "--print_config") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    written = yaml.safe_load(path.read_text())
    assert printed["trainer"]["max_steps"] == written["trainer"]["max_steps"]
    assert printed["model"]["class_path"].split(".")[-1] == written["model"]["class_path"]
    assert printed["model"]["init_args"]["max_bad_steps"] == 10  # defaults are resolved too


def test_subcommand_help_builds_nothing(no_networks: None, capsys: pytest.CaptureFixture[str]):
    assert fastgen("fit", "--help") == 0
    text = capsys.readouterr().out
    assert "--ckpt_path" in text and "--threads" in text and "weights_only" not in text
    assert fastgen("sample", "--help") == 0
    assert "--seeds" in capsys.readouterr().out


# ---------------------------------------------------------------------- every config, small

SMALL = {
    "Evaluate": {"count": 80, "batch_size": 40, "every_n_steps": 2},
    "SampleGrid": {"every_n_steps": 2, "seeds": 4},
    "Checkpoint": {"every_n_steps": 2},
    "Throughput": {"every_n_steps": 1},
    "Health": {"every_n_steps": 1},
}


def twin(path: Path, folder: Path) -> list[str]:
    """Words after the subcommand that make a config small: a second file for the callbacks, overrides for the rest."""
    config = yaml.safe_load(path.read_text())
    callbacks = config["trainer"]["callbacks"]
    for entry in callbacks:
        small = SMALL.get(entry["class_path"].split(".")[-1], {})
        entry["init_args"] = entry.get("init_args", {}) | {
            name: value
            for name, value in small.items()
            if name != "every_n_steps" or name in entry.get("init_args", {})
        }
    second = write(folder / "small.yaml", {"trainer": {"callbacks": callbacks}})
    pairs = []
    if config["data"]["class_path"] == "Pairs":
        out = folder / "pairs"
        assert fastgen("pairs", f"--config={path}", f"--out={out}", "--count=48", "--steps=2") == 0
        pairs = [f"--data.init_args.path={out}", "--data.init_args.held_out_count=16"]
    return [
        f"--config={path}",
        f"--config={second}",
        *pairs,
        "--trainer.max_steps=3",
        f"--trainer.logger.init_args.save_dir={folder}",
        "--data.init_args.batch_size=8",
        "--data.init_args.predict_count=4",
    ]


def assert_twin_runs(path: Path, folder: Path, *more: str, prompts: tuple[str, ...] = ()) -> Path:
    """fit, validate, test, predict and sample, all through the command line; returns the folder of the fit."""
    words = [*twin(path, folder), *more]
    assert fastgen("fit", *words) == 0
    run = folder / path.stem / "version_0"
    ckpt = run / "checkpoints" / "last.ckpt"
    assert load(ckpt)["global_step"] == 3
    assert load(run / "checkpoints" / "step=000002.ckpt")["global_step"] == 2
    assert (run / "checkpoints" / "student.safetensors").exists()
    assert (run / "config.yaml").exists() and (run / "throughput.json").exists()
    for command in ("validate", "test"):
        assert fastgen(command, *words, "--trainer.limit_val_batches=2", f"--ckpt_path={ckpt}") == 0
    data = yaml.safe_load(path.read_text())["data"]
    inner = (data["init_args"].get(name, {}) for name in ("like", "data"))
    kinds = {data["class_path"], *(other.get("class_path") for other in inner)}
    points = bool(kinds & {"Mixture", "DrivenClips"})
    assert fastgen("predict", *words, f"--ckpt_path={ckpt}") == 0
    (predicted,) = (folder / path.stem).glob("*/samples")
    files = sorted(file.name for file in predicted.iterdir())
    assert files == (["points.safetensors"] if points else [f"{i:06d}.png" for i in range(4)])
    if data["class_path"] == "Degraded":  # what it restores comes from the data module alone
        return run
    assert fastgen("sample", f"--ckpt={ckpt}", "--seeds=0-3", f"--out={folder / 'grid.png'}", *prompts) == 0
    assert Image.open(folder / "grid.png").size[0] > 30
    return run


HERE = [path for path in CONFIGS if "pretrained:" not in path.read_text()]
"""Configs whose networks need no download; the others run on tiny pipelines in tests/denoisers."""


@pytest.mark.parametrize("path", few_of(HERE))
def test_every_config_runs_small(path: Path, tmp_path: Path):
    run = assert_twin_runs(path, tmp_path)
    rows = (run / "metrics.jsonl").read_text().splitlines()
    assert '"student_updates": 3' in rows[-1]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion in the format of the real one."""
    folder = Path(__file__).parents[1] / "denoisers"
    spec = importlib.util.spec_from_file_location("tiny_sd", folder / "tiny_sd.py")
    tiny_sd = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny_sd)
    return tiny_sd.write_tiny_pipeline(tmp_path_factory.mktemp("sd") / "pipeline")


def test_stable_diffusion_runs_small(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Training, evaluation, files and pictures from prompts; the config as it ships but for the teacher's folder."""
    teacher = f"--model.init_args.teacher.init_args.pretrained={pipeline}"
    run = assert_twin_runs(
        ROOT / "configs" / "sid_sd15.yaml", tmp_path, teacher, "--trainer.accelerator=cpu", prompts=("--prompt=a cat",)
    )
    assert (run / "grids" / "step_000003.png").exists()
    ckpt = run / "checkpoints" / "last.ckpt"
    names = load(ckpt)["state_dict"]
    assert {name.split(".")[0] for name in names} == {
        "student",
        "critic",
        "averages",
    }  # no teacher, VAE or text encoder
    monkeypatch.chdir(tmp_path)
    pictures = {}
    for steps in (1, 4):
        words = ["--ckpt", ckpt, "--seeds=0-2", "--prompt=a cat", "--prompt=a dog", f"--steps={steps}"]
        assert fastgen("sample", *words, f"--out=of_{steps}.safetensors") == 0
        pictures[steps] = load_file(f"of_{steps}.safetensors")["samples"]
        assert pictures[steps].shape == (3, 3, 16, 16)
    assert (pictures[1] - pictures[4]).abs().max() > 1e-3
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    words = ["--ckpt", ckpt, "--seeds=0-2", "--prompts=prompts.txt", "--batch-size=1", "--out=again.safetensors"]
    assert fastgen("sample", *words) == 0
    torch.testing.assert_close(load_file("again.safetensors")["samples"], pictures[1], rtol=0, atol=1e-4)
    assert fastgen("sample", "--ckpt", ckpt, "--role=teacher", "--seeds=0", "--prompt=a cat", "--out=teacher.png") == 0


def test_stable_diffusion_has_the_numbers_of_the_paper(pipeline: Path):
    """SiD-LSG as released (Zhou et al. 2024, arXiv 2406.01561; github.com/mingyuanzhou/SiD-LSG)."""
    parser = RecipeParser(exit_on_error=False)
    parser.add_subclass_arguments(Distiller, "model")
    model = yaml.safe_load((ROOT / "configs" / "sid_sd15.yaml").read_text())["model"]
    model["init_args"]["teacher"]["init_args"]["pretrained"] = str(pipeline)
    method = parser.instantiate_classes(parser.parse_object({"model": model})).model
    assert isinstance(method, SiD) and method.form == SiDForm(alpha=1.0, scale=1.0)
    assert method.guidance == Guidance(teacher=2.0, critic=2.0, critic_training=2.0, condition_dropout=0.1)
    assert method.schedule == UpdateSchedule(critic_updates=1, critic_first=True, reuse_rollout=False)
    assert method.sampler == RenoiseSampler([625.0])
    objective = method.critic_objective
    assert (objective.target, objective.weight, objective.reduction) == ("noise", UniformWeight(), "sum")
    method.configure_model()
    process = method.student.process
    for law in (method.renoise_time, method.critic_time):
        steps = law.sample(Draws(0, list(range(20_000)), "test"), process)
        assert steps.min() == 20 and steps.max() == 979 and torch.equal(steps, steps.round())
    # The student begins with a zero latent, noised to step 625.
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    sigma = (1 - (1 - betas).cumprod(0)[625]).sqrt()
    noise = torch.ones(1, *method.student.sample_shape, dtype=torch.float64)
    begin = process.start(noise, torch.tensor([625.0], dtype=torch.float64))
    torch.testing.assert_close(begin, sigma * noise, rtol=1e-5, atol=0)
    # N steps are 625 (1 - i / N), with fresh noise; here the last one leads to step -1, where there is no noise.
    times = torch.tensor(method.sampler.schedule(method.student, 4))
    torch.testing.assert_close(times, torch.tensor([625.0, 468.75, 312.5, 156.25]), rtol=0, atol=1.0)
    optimizers = [entry["optimizer"] for entry in method.configure_optimizers()]
    for optimizer in optimizers:
        assert isinstance(optimizer, torch.optim.Adam)
        assert optimizer.defaults["lr"] == 1e-6 and tuple(optimizer.defaults["betas"]) == (0.0, 0.999)
        assert optimizer.defaults["eps"] == 1e-8 and optimizer.defaults["weight_decay"] == 0
    callbacks = yaml.safe_load((ROOT / "configs" / "sid_sd15.yaml").read_text())["trainer"]["callbacks"]
    rule = callbacks[0]["init_args"]["rule"]
    assert rule == {"class_path": "HalfLifeEMA", "init_args": {"half_life": 50.0, "ramp_up": 0.05}}


def test_predict_keeps_to_a_writer_of_the_config(tmp_path: Path):
    config = digits(tmp_path)
    config["data"]["init_args"]["predict_count"] = 3
    config["trainer"]["callbacks"].append({"class_path": "WriteSamples", "init_args": {"out": str(tmp_path / "mine")}})
    path = write(tmp_path / "config.yaml", config)
    assert fastgen("fit", "--config", path) == 0
    assert fastgen("predict", "--config", path, "--ckpt_path", last(tmp_path)) == 0
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["000000.png", "000001.png", "000002.png"]
    assert (tmp_path / "mine" / "000000.png").exists()


# ---------------------------------------------------------------------- configs


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert fastgen("fit", *words, "--print_config") == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_configs_merge_from_left_to_right_and_words_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first = write(tmp_path / "first.yaml", mixture(tmp_path, steps=3))
    second = write(tmp_path / "second.yaml", {"trainer": {"max_steps": 5}, "model": {"init_args": {"alpha": 0.5}}})
    third = write(tmp_path / "third.yaml", {"trainer": {"max_steps": 7}})

    def numbers(*words: object) -> tuple[int, float, int]:
        found = printed(capsys, *words)
        model = found["model"]["init_args"]
        return found["trainer"]["max_steps"], model["alpha"], model["student"]["init_args"]["width"]

    assert numbers("--config", first) == (3, 1.2, 16)
    assert numbers("--config", first, "--config", second) == (5, 0.5, 16)
    assert numbers("--config", first, "--config", second, "--config", third) == (7, 0.5, 16)
    assert numbers("--config", first, "--config", third, "--config", second) == (5, 0.5, 16)
    words = ["--trainer.max_steps=9", "--model.init_args.student.init_args.width=8"]
    assert numbers("--config", first, "--config", third, *words) == (9, 1.2, 8)


def test_the_method_can_be_changed_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = write(tmp_path / "config.yaml", mixture(tmp_path))
    found = printed(capsys, "--config", config, "--model=DMD2")["model"]
    assert found["class_path"] == "fastgen.methods.DMD2"
    assert found["init_args"]["student"]["init_args"]["width"] == 16  # what both have stays


def test_the_saved_config_repeats_the_run(tmp_path: Path):
    config = write(tmp_path / "config.yaml", mixture(tmp_path, steps=3))
    assert fastgen("fit", "--config", config, "--model.init_args.alpha=0.7") == 0
    saved = tmp_path / "run" / "version_0" / "config.yaml"
    assert yaml.safe_load(saved.read_text())["model"]["init_args"]["alpha"] == 0.7
    assert fastgen("fit", "--config", saved) == 0
    assert_same_training(last(tmp_path), last(tmp_path, version=1))
    assert fastgen("validate", "--config", saved, "--ckpt_path", last(tmp_path)) == 0


def test_threads(tmp_path: Path):
    try:
        assert fastgen("fit", "--config", write(tmp_path / "config.yaml", mixture(tmp_path)), "--threads=2") == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


# ---------------------------------------------------------------------- terminal


def test_the_terminal_shows_no_noise_but_our_warnings(tmp_path: Path):
    config = mixture(tmp_path, steps=2)
    config["trainer"]["callbacks"][-1]["init_args"]["monitor"] = "eval/typo"
    _, err = finish(start("fit", "--config", write(tmp_path / "config.yaml", config)))
    assert "Checkpoint monitors 'eval/typo', which was never logged" in err
    _, again = finish(start("fit", "--config", tmp_path / "config.yaml", "--ckpt_path", last(tmp_path)))
    noise = (
        "litlogger",
        "weights_only",
        "eval mode",
        "deprecated",
        "bottleneck",
        "TPU",
        "Traceback",
        "site-packages/torch",
    )
    for text in (err, again):
        assert not [word for word in noise if word in text], text


def test_other_warnings_still_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from fastgen.cli.noise import silence_noise

    silence_noise()
    with pytest.warns(UserWarning, match="mind the gap"):
        warnings.warn("mind the gap", stacklevel=1)
    with pytest.warns(FutureWarning, match="something else is deprecated"):
        warnings.warn("something else is deprecated", FutureWarning, stacklevel=1)


# ---------------------------------------------------------------------- fastgen sample


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of images and of points; the runs' folders are gone."""
    folder = tmp_path_factory.mktemp("sampled")
    found = {}
    for name, make in (("digits", digits), ("points", mixture)):
        config = make(folder / name, steps=3)
        if name == "digits":  # with the real teacher, so that pictures differ
            config["model"]["init_args"]["teacher"] = {
                "class_path": "UNet",
                "init_args": {
                    "process": {"class_path": "EDM"},
                    "num_classes": 10,
                    "sigma_data": 0.75,
                    "weights": "asset:teacher_digits.safetensors",
                },
            }
            config["model"]["init_args"]["sampler"] = {"class_path": "RenoiseSampler", "init_args": {"times": [2.5]}}
        assert fastgen("fit", "--config", write(folder / "config.yaml", config)) == 0
        found[name] = folder / f"{name}.ckpt"
        shutil.move(last(folder / name), found[name])
        shutil.rmtree(folder / name)
    (folder / "config.yaml").unlink()
    return found


@pytest.fixture
def draw(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """Runs ``fastgen sample`` in an empty folder; returns the samples."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *words: str) -> Tensor:
        assert fastgen("sample", "--ckpt", checkpoints[name], "--out=samples.safetensors", *words) == 0
        return load_file("samples.safetensors")["samples"]

    return run


def test_sample_draws_a_grid_from_another_folder(checkpoints: dict[str, Path], tmp_path: Path):
    words = ["--ckpt", checkpoints["digits"], "--steps=1", "--seeds=0-63", "--out=grid.png"]
    out, _ = finish(start("sample", *words, cwd=tmp_path))
    assert out.startswith("64 samples, 1 network calls each: grid.png")
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    picture = Image.open(tmp_path / "grid.png")
    side = 8 * CELL + 7 * GAP
    assert picture.size == (side, side) and picture.mode == "RGB"
    assert len(set(picture.getdata())) > 100  # not blank


def test_sample_shapes(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    ckpt = f"--ckpt={checkpoints['digits']}"
    assert fastgen("sample", ckpt, "--seeds=3,5,9-10", "--columns=4", "--out=row.png") == 0
    assert Image.open("row.png").size == (4 * CELL + 3 * GAP, CELL)
    assert fastgen("sample", ckpt, "--seeds=3,5", "--out=pictures") == 0
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["000003.png", "000005.png"]
    assert Image.open("pictures/000003.png").size == (8, 8)
    assert fastgen("sample", f"--ckpt={checkpoints['points']}", "--seeds=0-9", "--out=points.png") == 0
    assert Image.open("points.png").size[0] > 200


def test_a_sample_depends_on_its_seed_only(draw: Callable[..., Tensor]):
    together = draw("digits", "--seeds=0-11", "--labels=7")
    assert together.shape == (12, 1, 8, 8)
    torch.testing.assert_close(
        draw("digits", "--seeds=0-11", "--labels=7", "--batch-size=5"), together, rtol=0, atol=1e-5
    )
    torch.testing.assert_close(draw("digits", "--seeds=11,4", "--labels=7"), together[[11, 4]], rtol=0, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.1
    points = draw("points", "--seeds=0-20")
    torch.testing.assert_close(draw("points", "--seeds=0-20", "--batch-size=4"), points, rtol=0, atol=1e-5)


def test_pictures_do_not_depend_on_the_batch(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for size in (64, 3):
        words = ["--ckpt", checkpoints["digits"], "--seeds=0-15", f"--batch-size={size}", f"--out={size}.png"]
        assert fastgen("sample", *words) == 0
    left, right = (torch.tensor(list(Image.open(f"{size}.png").convert("L").getdata())) for size in (64, 3))
    assert (left - right).abs().max() <= 1


def test_labels_cycle(draw: Callable[..., Tensor]):
    cycled = draw("digits", "--seeds=5,5,5,5", "--labels=3,8")
    torch.testing.assert_close(cycled[0], cycled[2])
    torch.testing.assert_close(cycled[1], cycled[3])
    assert (cycled[0] - cycled[1]).abs().max() > 0.05
    default = draw("digits", "--seeds=0-11")
    torch.testing.assert_close(default[3:4], draw("digits", "--seeds=3", "--labels=3"), rtol=0, atol=1e-5)
    torch.testing.assert_close(default[11:], draw("digits", "--seeds=11", "--labels=1"), rtol=0, atol=1e-5)


def test_roles_and_steps(checkpoints: dict[str, Path], draw: Callable[..., Tensor], capsys: pytest.CaptureFixture[str]):
    average = draw("digits", "--seeds=0-3")
    assert "1 network calls" in capsys.readouterr().out
    torch.testing.assert_close(draw("digits", "--seeds=0-3", "--role=ema"), average, rtol=0, atol=0)
    student = draw("digits", "--seeds=0-3", "--role=student")
    assert (student - average).abs().max() > 0
    method = method_from_checkpoint(checkpoints["digits"])
    mine = method.sample(range(4), {"label": torch.arange(4)}, role="student")
    torch.testing.assert_close(student, mine, rtol=0, atol=0)
    capsys.readouterr()
    teacher = draw("digits", "--seeds=0-3", "--role=teacher")
    assert "35 network calls" in capsys.readouterr().out
    assert (teacher - average).abs().max() > 0.5
    assert teacher.abs().max() < 1.5 and teacher.min() < -0.8  # digits on black
    four = draw("digits", "--seeds=0-3", "--steps=4")
    assert "4 network calls" in capsys.readouterr().out
    assert (four - average).abs().max() > 0.01


def test_sample_equals_the_method_in_python(checkpoints: dict[str, Path], draw: Callable[..., Tensor]):
    method = method_from_checkpoint(checkpoints["digits"])
    mine = method.sample([4, 9], {"label": torch.tensor([1, 2])})
    torch.testing.assert_close(draw("digits", "--seeds=4,9", "--labels=1,2"), mine, rtol=0, atol=0)
    assert method.student_updates == 3 and method.teacher is None
