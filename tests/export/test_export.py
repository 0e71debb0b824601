"""Exported students: a process without fastgen makes the images of ``fastgen sample``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from command_line import fastgen, load, trainer, write
from denoisers.tiny_flux import write_tiny_flux
from denoisers.tiny_qwenimage import write_tiny_qwenimage
from denoisers.tiny_sd import write_tiny_pipeline
from denoisers.tiny_sd3 import write_tiny_sd3
from denoisers.tiny_sdxl import write_tiny_sdxl
from denoisers.tiny_wan import write_tiny_wan
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastgen.checkpoints.reading import method_from_checkpoint
from fastgen.checkpoints.seals import seal
from fastgen.denoisers import Flux, LoRA, QwenImage, StableDiffusion, StableDiffusion3, StableDiffusionXL, Wan
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.denoisers.diffusers.pipelines import PipelineDenoiser
from fastgen.denoisers.wrappers.lora import AdaptedDenoiser
from fastgen.errors import UserError
from fastgen.export import lora as lora_files
from fastgen.export.lora import FILES, export_lora
from fastgen.export.pipeline import export_pipeline
from fastgen.export.sampling import Sampling
from fastgen.export.schedulers import baked_scheduler
from fastgen.miniatures.pipelines import make_pipeline
from fastgen.randomness import Draws

PROMPTS = ["a cat", "two dogs"]
SEEDS = [3, 5]
RANK, ALPHA = 4, 10.0

LOADER = """
import json
import sys
import torch
import diffusers
from safetensors.torch import load_file, save_file

for line in sys.stdin:
    job = json.loads(line)
    card = open(job["folder"] + "/README.md").read()
    code = card.split("```python")[1].split("```")[0].replace("PATH_OF_THIS_FOLDER", job["folder"])
    *load, call = code.replace("PATH_OF_THE_TEACHER", job["teacher"]).strip().splitlines()
    names = {}
    exec("\\n".join(load), names)
    pipe = names["pipe"]
    options = json.load(open(job["folder"] + "/fastgen.json"))["call"]
    assert all(f"{name}={value}" in call for name, value in options.items()), call
    noises = load_file(job["noises"])
    left = [noises[name] for name in sorted(noises)]
    if hasattr(pipe, "_pack_latents"):
        left = [pipe._pack_latents(noise, *noise.shape) for noise in left]
    first = left.pop(0)
    # The pipeline draws its further noise in the scheduler; there it gets ours.
    module = sys.modules[type(pipe.scheduler).__module__]
    module.randn_tensor = lambda shape, **_: left.pop(0) if left else torch.zeros(shape)
    result = pipe(["a cat", "two dogs"], latents=first, output_type="pt", **options)
    images = result.frames.transpose(1, 2) if "frames" in result else result.images
    assert not left
    assert not any(name.split(".")[0] == "fastgen" for name in sys.modules)
    save_file({"images": images.contiguous()}, job["out"])
    print("done", flush=True)
"""


class Family(NamedTuple):
    """A tiny teacher."""

    denoiser: type[PipelineDenoiser]
    write: Callable[..., Path]
    options: dict[str, Any] = {}

    def build(self, folder: Path) -> PipelineDenoiser:
        denoiser = self.denoiser(str(self.write(folder)), **self.options)
        denoiser.load_weights()
        return denoiser


FAMILIES = {
    "sd15": Family(StableDiffusion, write_tiny_pipeline),
    "sdxl": Family(StableDiffusionXL, write_tiny_sdxl),
    "sd3": Family(StableDiffusion3, write_tiny_sd3),
    "flux": Family(Flux, write_tiny_flux, {"resolution": 16, "max_tokens": 24, "embedded_guidance": 2.5}),
    "qwenimage": Family(QwenImage, write_tiny_qwenimage, {"resolution": 16, "max_tokens": 24}),
    "wan": Family(Wan, write_tiny_wan, {"height": 16, "width": 16, "frames": 5, "max_tokens": 24}),
}
WIDE = {
    "wide sdxl": Family(StableDiffusionXL, write_tiny_sdxl, {"height": 16, "width": 32}),
    "wide flux": FAMILIES["flux"]._replace(options={"height": 16, "width": 32, "max_tokens": 24}),
}
VP_TIMES, FLOW_TIMES = [999.0, 749.0, 499.0, 249.0], [1.0, 0.9, 0.75, 0.5]


def four(family: str, kind: str = "RenoiseSampler") -> dict[str, Any]:
    """A sampler of four steps."""
    times = VP_TIMES if family in ("sd15", "sdxl", "wide sdxl") else FLOW_TIMES
    return {"class_path": kind, "init_args": {"times": times}}


def train(folder: Path, family: str, adapters: bool) -> Path:
    """A checkpoint after two updates with a high learning rate, so that the student is not its teacher."""
    denoiser, make, options = (FAMILIES | WIDE)[family]
    teacher = {"class_path": denoiser.__name__, "init_args": {"pretrained": str(make(folder / "teacher")), **options}}
    optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": 2e-2 if adapters else 1e-3}}
    lora = {"class_path": "LoRA", "init_args": {"rank": RANK, "alpha": ALPHA}}
    config = {
        "trainer": trainer(
            folder, 2, {"class_path": "fastgen.callbacks.Checkpoint", "init_args": {"every_n_steps": 2}}
        ),
        "model": {
            "class_path": "SiD",
            "init_args": {
                "teacher": teacher,
                "sampler": four(family),
                "student_optimizer": optimizer,
                "critic_optimizer": optimizer,
                **({"student": lora, "critic": lora} if adapters else {}),
            },
        },
        "data": {"class_path": "Prompts", "init_args": {"path": "asset:prompts_toy.txt", "batch_size": 2}},
    }
    assert fastgen("fit", "--config", write(folder / "config.yaml", config)) == 0
    return folder / "run" / "version_0" / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """Trains a family once, whole or with adapters."""
    return cache(lambda family, adapters: train(tmp_path_factory.mktemp(family), family, adapters))


@pytest.fixture(scope="module")
def diffusers_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Tensor]]:
    """What a process that knows diffusers only makes of an exported folder and noise."""
    scratch = tmp_path_factory.mktemp("alone")
    with (scratch / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", LOADER],
            cwd=scratch,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdin and process.stdout
    stdin, stdout = process.stdin, process.stdout

    def images(folder: Path, teacher: Path, noises: list[Tensor]) -> Tensor:
        save_file({f"{i}": noise for i, noise in enumerate(noises)}, scratch / "noises.safetensors")
        job = {"folder": folder, "teacher": teacher, "noises": scratch / "noises.safetensors", "out": scratch / "out"}
        print(json.dumps({name: str(path) for name, path in job.items()}), file=stdin, flush=True)
        assert stdout.readline() == "done\n", (scratch / "errors.txt").read_text()[-3000:]
        return load_file(scratch / "out")["images"]

    yield images
    stdin.close()
    process.wait(60)


def resampled(checkpoint: Path, out: Path, sampler: dict[str, Any]) -> Path:
    """The checkpoint with another sampler in its recipe."""
    saved = load(checkpoint)
    saved["fastgen"]["recipe"]["init_args"]["sampler"] = sampler
    torch.save(saved, out)
    return out


SID = {"class_path": "RenoiseSampler", "init_args": {"times": [625.0]}}
EULER = {"class_path": "JumpSampler", "init_args": {"steps": 4}}


class Case(NamedTuple):
    """What is exported and how."""

    family: str
    steps: int = 4
    adapters: bool = False
    format: str = "pipeline"
    sampler: dict[str, Any] | None = None
    slow: bool = False


CASES = {
    "sd15, as trained by SiD": Case("sd15", 1, sampler=SID),
    "sd15, one step": Case("sd15", 1),
    "sd15, four steps": Case("sd15"),
    "sd15, four steps of DDIM": Case("sd15", sampler=four("sd15", "JumpSampler")),
    "sd15, LoRA, one step": Case("sd15", 1, adapters=True, format="lora"),
    "sd15, LoRA, four steps": Case("sd15", adapters=True, format="lora"),
    "sd15, kohya's LoRA": Case("sd15", adapters=True, format="kohya"),
    "sd15, merged LoRA": Case("sd15", adapters=True),
    "sdxl, four steps": Case("sdxl", slow=True),
    "sdxl, not square": Case("wide sdxl", slow=True),
    "sdxl, kohya's LoRA": Case("sdxl", adapters=True, format="kohya", slow=True),
    "sd3, one step": Case("sd3", 1),
    "sd3, four steps": Case("sd3"),
    "sd3, four steps of Euler": Case("sd3", sampler=four("sd3", "JumpSampler")),
    "sd3, LoRA, one step": Case("sd3", 1, adapters=True, format="lora"),
    "sd3, LoRA, four steps": Case("sd3", adapters=True, format="lora"),
    "flux, one step": Case("flux", 1, adapters=True),
    "flux, four steps": Case("flux", adapters=True),
    "flux, four steps of Euler": Case("flux", adapters=True, sampler=EULER),
    "flux, not square": Case("wide flux", adapters=True),
    "flux, LoRA": Case("flux", adapters=True, format="lora", slow=True),
    "qwenimage, one step": Case("qwenimage", 1, adapters=True),
    "qwenimage, four steps": Case("qwenimage", adapters=True),
    "qwenimage, LoRA": Case("qwenimage", adapters=True, format="lora", slow=True),
    "wan, one step": Case("wan", 1, adapters=True),
    "wan, four steps": Case("wan", adapters=True),
    "wan, LoRA": Case("wan", adapters=True, format="lora", slow=True),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * c.slow) for n, c in CASES.items()])
def test_diffusers_alone_makes_the_same_images(
    name: str, trained: Callable[..., Path], diffusers_alone: Callable[..., Tensor], tmp_path: Path
):
    case = CASES[name]
    checkpoint = trained(case.family, case.adapters)
    if case.sampler:
        checkpoint = resampled(checkpoint, tmp_path / "other.ckpt", case.sampler)
    out = tmp_path / "student"
    words = [f"--ckpt={checkpoint}", f"--out={out}", f"--format={case.format}", f"--steps={case.steps}"]
    assert fastgen("export", *words) == 0
    main = {"pipeline": "model_index.json", **FILES}[case.format]
    assert {"fastgen.json", "README.md", main} <= {path.name for path in out.iterdir()}

    method = method_from_checkpoint(checkpoint, with_teacher=True)
    ours = 0.5 * method.sample(SEEDS, {"prompt": PROMPTS}, case.steps) + 0.5
    draws = Draws(0, SEEDS, "sample")
    names = ["noise", *(f"noise{i}" for i in range(1, case.steps if method.sampler.moves == "renoise" else 1))]
    noises = [draws.normal(key, method.student.sample_shape) for key in names]
    theirs = diffusers_alone(out, Path(method.teacher.pipeline.pretrained), noises)
    torch.testing.assert_close(theirs, ours.clamp(0, 1), rtol=0, atol=1e-3)

    condition = method.encode_condition({"prompt": PROMPTS})
    with torch.no_grad():  # the teacher, called as the student: what a student without effect would make
        bare = 0.5 * method.codec.decode(method.sampler.sample(method.teacher, draws, condition, case.steps)) + 0.5
    assert (theirs - bare.clamp(0, 1)).abs().max() > 0.02


def test_a_lora_keeps_its_alpha(trained: Callable[..., Path], tmp_path: Path):
    checkpoint = trained("sd15", True)
    for dialect in FILES:
        assert fastgen("export", f"--ckpt={checkpoint}", f"--out={tmp_path / dialect}", f"--format={dialect}") == 0
    peft, kohya = (load_file(tmp_path / dialect / file) for dialect, file in FILES.items())
    with safe_open(tmp_path / "lora" / FILES["lora"], "pt") as file:
        config = json.loads(file.metadata()["lora_adapter_metadata"])
    layers = len(method_from_checkpoint(checkpoint).student.changes)
    assert (config["unet.r"], config["unet.lora_alpha"]) == (RANK, ALPHA)
    assert len(peft) == 2 * layers == 2 * len(config["unet.target_modules"]) and len(kohya) == 3 * layers
    assert all(value == ALPHA for name, value in kohya.items() if name.endswith(".alpha"))
    place = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    for ours, theirs in (("A", "down"), ("B", "up")):
        one = peft[f"unet.{place}.lora_{ours}.weight"]
        assert torch.equal(one, kohya[f"lora_unet_{place.replace('.', '_')}.lora_{theirs}.weight"]) and one.any()


def randomised_lora(base: PipelineDenoiser) -> AdaptedDenoiser:
    """A LoRA with an effect."""
    student = LoRA(rank=2, alpha=3.0).attach(base)
    for i, change in enumerate(student.by_path().values()):
        torch.nn.init.normal_(change.up.weight, std=0.05, generator=torch.Generator().manual_seed(i))
    return student


@pytest.mark.parametrize("dialect", FILES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_that_diffusers_does_not_apply_is_refused(family: str, dialect: str, tmp_path: Path):
    student = randomised_lora(FAMILIES[family].build(tmp_path / "teacher"))
    out, sampling = tmp_path / "lora", Sampling([student.process.t_max], True, {})
    refusals = {"sd3": "without an error, but not as the student", "flux": "cannot load", "wan": "cannot load"}
    if dialect == "kohya" and family in refusals:
        with pytest.raises(UserError, match=f"{refusals[family]}.*choose another --format"):
            export_lora(student, sampling, dialect, out)
        assert not any(out.iterdir())
    else:
        export_lora(student, sampling, dialect, out)
        assert (out / FILES[dialect]).exists() and (out / "scheduler" / "scheduler_config.json").exists()


@pytest.mark.parametrize(
    ("family", "dialect"), [("sd15", "lora"), ("sd15", "kohya"), ("sd3", "lora"), ("qwenimage", "lora")]
)
def test_a_lora_file_makes_a_teacher(family: str, dialect: str, tmp_path: Path):
    """What was written as a LoRA and merged into its base again is the student that it was."""
    base = FAMILIES[family].build(tmp_path / "teacher")
    student = randomised_lora(base)
    export_lora(student, Sampling([student.process.t_max], True, {}), dialect, tmp_path / "lora")
    file = str(tmp_path / "lora" / FILES[dialect])
    options = FAMILIES[family].options
    tuned = FAMILIES[family].denoiser(str(tmp_path / "teacher"), **options, lora=file).eval()
    tuned.load_weights()
    assert set(tuned.state_dict()) == set(base.state_dict())
    x = torch.randn(1, *base.sample_shape, generator=torch.Generator().manual_seed(0))
    t, condition = torch.full((1,), 0.5 * base.process.t_max), base.example_condition(1)
    with torch.no_grad():
        values = [network.eval()(x, t, condition).value for network in (tuned, student, base)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-5)
    assert (values[0] - values[2]).abs().max() > 1e-3
    with pytest.raises(UserError, match=r"is no \.safetensors file here"):
        FAMILIES[family].denoiser(str(tmp_path / "teacher"), **options, lora="nowhere").load_weights()
    with pytest.raises(UserError, match="merged into its base"):
        export_lora(randomised_lora(tuned), Sampling([1.0], True, {}), dialect, tmp_path / "second")


Written = tuple[dict[str, Tensor], dict[str, str]]
FAULTS: dict[str, Callable[[dict[str, Tensor], dict[str, str]], Written]] = {
    "no alpha": lambda tensors, metadata: (tensors, {}),
    "another prefix": lambda tensors, metadata: ({f"base_model.{k}": v for k, v in tensors.items()}, {}),
    "not a number": lambda tensors, metadata: ({k: v * torch.nan for k, v in tensors.items()}, metadata),
    "one layer less": lambda tensors, metadata: (
        {k: v * ("0.attn.to_v" not in k) for k, v in tensors.items()},
        metadata,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_loads_without_effect_is_noticed(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    student = randomised_lora(FAMILIES["sd3"].build(tmp_path / "teacher"))
    right = lora_files._peft
    monkeypatch.setattr(lora_files, "_peft", lambda student, part: FAULTS[fault](*right(student, part)))
    with pytest.raises(UserError, match="not as the student"):
        export_lora(student, Sampling([1.0], True, {}), "lora", tmp_path / "lora")


def test_the_card_names_a_teacher_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    student, out = randomised_lora(FAMILIES["sd3"].build(tmp_path / "teacher")), tmp_path / "lora"
    monkeypatch.setattr(PipelineFolder, "is_local", False)
    export_lora(student, Sampling([1.0], True, {}), "lora", out)
    card = (out / "README.md").read_text()
    assert f"\nbase_model: {tmp_path / 'teacher'}\n" in card
    assert f'DiffusionPipeline.from_pretrained("{tmp_path / "teacher"}")' in card
    assert "PATH_OF_THE_TEACHER" not in card


@pytest.mark.parametrize("negative", [None, "blurry, deformed"])
def test_the_card_says_which_negative_prompt_the_student_carries(negative: str | None, tmp_path: Path):
    folder = write_tiny_pipeline(tmp_path / "teacher")
    export_pipeline(StableDiffusion(str(folder), negative_prompt=negative), Sampling([999.0], True, {}), tmp_path / "x")
    card = (tmp_path / "x" / "README.md").read_text()
    assert ("negative prompt" in card) == (f'"{negative}"' in card) == (negative is not None)
    assert json.loads((tmp_path / "x" / "fastgen.json").read_text()).get("negative_prompt") == negative


def test_times_that_no_scheduler_knows_are_refused(tmp_path: Path):
    vp = StableDiffusion(str(write_tiny_pipeline(tmp_path / "vp")))
    flow = StableDiffusion3(str(write_tiny_sd3(tmp_path / "flow")))
    with pytest.raises(UserError, match="call at 999, 749, 499, 249"):
        baked_scheduler(vp, [999.0, 800.0, 500.0, 100.0], stochastic=True)
    with pytest.raises(UserError, match="call at 999, 499"):
        baked_scheduler(vp, [625.0, 300.0], stochastic=True)
    with pytest.raises(UserError, match="whole numbers"):
        baked_scheduler(vp, [624.5], stochastic=True)
    with pytest.raises(UserError, match="pure noise at t = 1"):
        baked_scheduler(flow, [0.7], stochastic=True)
    with pytest.raises(UserError, match="cannot express"):
        baked_scheduler(flow, [1.0, 0.9, 0.3, 0.2], stochastic=True)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 12.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_even_shifted_grids_are_baked_exactly(tmp_path: Path, shift: float, steps: int, family: str):
    denoiser, make, options = FAMILIES[family]
    flow = denoiser(str(make(tmp_path, shift=shift, use_dynamic_shifting=False)), **options)
    times = flow.process.grid(steps)
    scheduler = baked_scheduler(flow, times, stochastic=True)
    again = type(scheduler).from_config(dict(scheduler.config))
    # FLUX's pipeline hands even sigmas to its scheduler, SD3's hands it nothing.
    again.set_timesteps(steps, sigmas=[1.0 - i / steps for i in range(steps)] if family == "flux" else None)
    torch.testing.assert_close(again.sigmas[:-1], torch.tensor(times), rtol=0, atol=1e-6)


def test_from_python_it_is_the_same_folder(trained: Callable[..., Path], tmp_path: Path):
    import fastgen as library

    checkpoint = trained("sd15", False)
    method = library.load(checkpoint)
    assert library.sample(method, range(3), prompts=["a cat", "two dogs"], steps=1).shape[:2] == (3, 3)
    assert library.to_diffusers(method, tmp_path / "python", steps=2) == tmp_path / "python"
    assert fastgen("export", f"--ckpt={checkpoint}", f"--out={tmp_path / 'command'}", "--steps=2") == 0
    made, wanted = (
        {p.relative_to(tmp_path / n).as_posix(): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()}
        for n in ("python", "command")
    )
    assert made.keys() == wanted.keys() and made["unet/config.json"] == wanted["unet/config.json"]
    weights = [name for name in made if name.endswith(".safetensors")]
    assert weights and all(made[name] == wanted[name] for name in weights)
    with pytest.raises(UserError, match="give prompts"):
        library.sample(method, range(3))
    with pytest.raises(UserError, match="not a LoRA"):
        library.to_diffusers(method, tmp_path / "lora", format="lora")


def test_what_cannot_be_exported_is_one_sentence(
    trained: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    checkpoint = trained("sd15", False)
    refusals = {
        (f"--out={checkpoint.parent}",): "exists; give a folder that is new or empty",
        ("--role=teacher",): "nothing to export",
        ("--steps=3",): "call at 998, 665, 332",
        ("--format=lora",): "a whole StableDiffusion, not a LoRA; leave --format lora out",
    }
    for words, reason in refusals.items():
        assert fastgen("export", f"--ckpt={checkpoint}", f"--out={tmp_path / 'x'}", *words) == 2
        assert reason in capsys.readouterr().err


def test_methods_that_sample_in_another_way_are_not_exported(
    trained: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    saved = torch.load(trained("sd15", False), weights_only=True)
    saved["fastgen"] |= {"method": "fastgen.methods.teachers.teacher.TeacherTraining", "averages": []}
    network = saved["fastgen"]["recipe"]["init_args"]["teacher"]
    saved["fastgen"]["recipe"] = {"class_path": "TeacherTraining", "init_args": {"student": network}}
    saved["state_dict"] = {name: value for name, value in saved["state_dict"].items() if name.startswith("student.")}
    seal(saved)
    torch.save(saved, tmp_path / "teacher.ckpt")
    assert fastgen("export", f"--ckpt={tmp_path / 'teacher.ckpt'}", f"--out={tmp_path / 'x'}") == 2
    assert "TeacherTraining samples in a way of its own" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_student_of_a_teacher_in_half_precision_is_a_pipeline_of_one_precision(dtype: torch.dtype, tmp_path: Path):
    """The text encoder of a folder in fp16 is read in fp16 whatever the network's precision is."""
    make_pipeline(write_tiny_pipeline(tmp_path / "like"), tmp_path / "half", {}, half=True)
    student = StableDiffusion(str(tmp_path / "half"))
    student.load_weights()
    student.network.to(dtype)
    export_pipeline(student, Sampling([999.0], False, {}), tmp_path / "out")
    parts = [load_file(path) for path in (tmp_path / "out").rglob("*.safetensors")]
    assert len(parts) == 3 and {v.dtype for part in parts for v in part.values() if v.is_floating_point()} == {dtype}
    code = (tmp_path / "out" / "README.md").read_text().split("```python")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace("PATH_OF_THIS_FOLDER", str(tmp_path / "out")), names)
    assert names["result"].size == (16, 16)
