"""A file from a stranger runs nothing: what it names is looked at before anything is imported."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command_line import EDM, checkpoint, fastgen, mixture, write

from fastgen.checkpoints.reading import method_from_checkpoint, read_checkpoint
from fastgen.checkpoints.seals import seal
from fastgen.configuration.masking import masked
from fastgen.data.prompts import read_prompts
from fastgen.denoisers import MLP, StableDiffusion, StableDiffusion3
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher
from fastgen.errors import UserError
from fastgen.methods.recipes import generator_from
from fastgen.metrics.extractors.weights import read_weights
from fastgen.metrics.samples.reference import read_reference
from fastgen.processes import EDM as EDMProcess
from fastgen.storage.files import load_tensors
from fastgen.storage.pair_files import read_manifest

STRANGER = """
from pathlib import Path
{canary}.touch()
import torch
from fastgen.denoisers import MLP
from fastgen.methods import SiD
from fastgen.sampling.solvers import Heun
class Net(MLP): pass
class Method(SiD): pass
class Slow(Heun): pass
class Optimizer(torch.optim.Adam): pass
def optimizer(params, lr: float = 0.1) -> torch.optim.Optimizer: return Optimizer(params, lr)
"""


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that must not appear; an importable module ``stranger`` touches it."""
    file = tmp_path / "canary"
    (tmp_path / "stranger.py").write_text(STRANGER.format(canary=repr(file).replace("PosixPath", "Path")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    monkeypatch.chdir(tmp_path)
    yield file
    sys.modules.pop("stranger", None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a tiny run."""
    folder = tmp_path_factory.mktemp("trained")
    extras = [{"class_path": "GAN", "init_args": {"start": 100}}]
    config = mixture(folder, steps=1, batch_size=4, extras=extras)
    config["trainer"]["callbacks"] = [checkpoint(1)]
    assert fastgen("fit", "--config", write(folder / "config.yaml", config)) == 0
    return folder / "run" / "version_0"


@pytest.fixture(scope="module")
def recipe(trained: Path) -> dict[str, Any]:
    return torch.load(trained / "checkpoints/last.ckpt", weights_only=True)["fastgen"]["recipe"]


def shell(canary: Path) -> dict[str, Any]:
    return {"class_path": "subprocess.getoutput", "init_args": {"cmd": f"touch {canary}"}}


def of_class(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


def put(recipe: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A copy with ``value`` at a dotted place."""
    changed: Any = deepcopy(recipe)
    *path, last = place.split(".")
    part = changed
    for key in path:
        part[key] = part[key] if isinstance(part.get(key), dict) else {}
        part = part[key]
    part[last] = value
    return changed


def test_a_recipe_builds_what_samples_need_and_no_more(recipe: dict[str, Any]):
    method = generator_from(recipe)
    assert not method.extras and method.factories["critic"] == CopyOfTeacher()
    method.configure_for_sampling()
    assert not hasattr(method, "critic")
    assert {name.partition(".")[0] for name in method.state_dict()} <= {"student", "teacher", "codec", "averages"}


FOR_TRAINING = ("student_optimizer", "student_lr_scheduler", "critic", "critic_optimizer", "critic_lr_scheduler")
LOSSES = ("critic_objective",)


@pytest.mark.parametrize("name", [*FOR_TRAINING, *LOSSES, "extras"])
@pytest.mark.parametrize("kind", ["function", "stranger", "text"])
def test_what_only_training_needs_is_not_even_looked_at(name: str, kind: str, recipe: dict[str, Any], canary: Path):
    value = {"function": shell(canary), "stranger": of_class("stranger.Optimizer"), "text": "stranger.optimizer"}[kind]
    generator_from(put(recipe, f"init_args.{name}", [value] if name == "extras" else value)).configure_for_sampling()
    assert not canary.exists() and "stranger" not in sys.modules


def touch(canary: Path) -> str:
    return f"touch {canary}"


PLACES = {
    "the method": "",
    "the teacher": "init_args.teacher",
    "the student": "init_args.student",
    "the solver": "init_args.solver",
    "the sampler": "init_args.sampler",
    "a time law": "init_args.renoise_time",
    "deep in the teacher": "init_args.teacher.init_args.process",
    "a plain number": "init_args.seed",
    "a dataclass": "init_args.guidance",
    "a list of numbers": "init_args.sampler.init_args.times",
    "an unknown argument": "init_args.anything",
    "arguments by another door": "init_args.teacher.dict_kwargs.process",
    "a door of no class": "init_args.seed.dict_kwargs.other",
}
PAYLOADS = {
    "function": lambda c: {"class_path": "subprocess.getoutput", "init_args": {"cmd": touch(c)}},
    "process": lambda c: of_class("subprocess.Popen", args=["touch", str(c)]),
    "stranger's class": lambda c: of_class("stranger.Net", process=EDM),
    "stranger's class by name": lambda c: "stranger.Net",
    "function by name": lambda c: "stranger.optimizer",
    "through torch": lambda c: of_class("torch.os.system", command=touch(c)),
    "through fastgen": lambda c: of_class("fastgen.cli.main.sys.modules", x=1),
    "through a module of ours": lambda c: of_class(
        "fastgen.metrics.extractors.weights.urllib.request.urlretrieve", url=f"file://{c}"
    ),
    "function of torch": lambda c: of_class("torch.hub.load", repo_or_dir=str(c), model="x", source="local"),
    "compiler of torch": lambda c: of_class("torch.utils.cpp_extension.load", sources=[str(c)]),
    "pickle of torch": lambda c: of_class("torch.load", f=str(c), weights_only=False),
    "program of torch": lambda c: of_class("torch.jit.load", f=str(c)),
    "package of torch": lambda c: of_class("torch.package.PackageImporter", file_or_buffer=str(c)),
    "writer of torch": lambda c: of_class("torch.utils.tensorboard.SummaryWriter", log_dir=str(c)),
    "logger of lightning": lambda c: of_class("lightning.pytorch.loggers.CSVLogger", save_dir=str(c)),
    "function of ours": lambda c: of_class("fastgen.storage.files.write_text", path=str(c), text="x"),
    "class of ours that is none of these": lambda c: of_class("fastgen.callbacks.Checkpoint", dirpath=str(c)),
    "YAML in a text": lambda c: f"{{class_path: subprocess.getoutput, init_args: {{cmd: touch {c}}}}}",
    "private name": lambda c: of_class("fastgen.__main__.main", arguments=["--version"]),
    "file of a config": lambda c: str(c.parent / "poison.yaml"),
    "dotted keys": lambda c: {"x.class_path": "subprocess.getoutput", "x.init_args.cmd": touch(c)},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_poisoned_recipe_runs_nothing(place: str, recipe: dict[str, Any], canary: Path):
    (canary.parent / "poison.yaml").write_text(yaml.safe_dump(shell(canary)))
    for name, payload in PAYLOADS.items():
        value = payload(canary)
        poisoned = put(recipe, PLACES[place], value) if PLACES[place] else value
        loaded = set(sys.modules)
        with pytest.raises(UserError) as refusal:
            generator_from(poisoned).configure_for_sampling()
        assert not canary.exists() and "stranger" not in sys.modules, name
        new = {module.partition(".")[0] for module in set(sys.modules) - loaded}
        assert not new - {"fastgen"}, (name, new)
        assert len(str(refusal.value)) < 400


def run_with(config: dict[str, Any], folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """What ``fit`` says about a config that it must refuse."""
    code = fastgen("fit", "--config", write(folder / "poisoned.yaml", config))
    out, err = capfd.readouterr()
    assert code == 2 and "Traceback" not in out + err, err
    (said,) = [line for line in err.splitlines() if line.startswith("fastgen: ")]
    return said


IN_CONFIGS = {
    "a function as an optimizer": ("model.init_args.student_optimizer", shell, "student_optimizer"),
    "a function as a network": ("model.init_args.teacher", shell, "teacher"),
    "a function as a solver": ("model.init_args.solver", shell, "solver"),
    "a class that is no optimizer": (
        "model.init_args.student_optimizer",
        lambda c: of_class("subprocess.Popen", args=["touch", str(c)]),
        "student_optimizer",
    ),
    "a factory as an optimizer": (
        "model.init_args.student_optimizer",
        lambda c: "makers.optimizer",
        "student_optimizer",
    ),
    "a factory with arguments": (
        "model.init_args.critic_optimizer",
        lambda c: of_class("makers.optimizer", lr=0.2),
        "critic_optimizer",
    ),
    "a factory as a solver": ("model.init_args.solver", lambda c: of_class("makers.solver"), "solver"),
    "a function as data": ("data", shell, "data"),
    "a function as a logger": ("trainer.logger", shell, "trainer.logger"),
    "a function as a callback": ("trainer.callbacks", lambda c: [shell(c)], "callbacks"),
    "a function of torch": (
        "model.init_args.student",
        lambda c: of_class("torch.hub.load", repo_or_dir=str(c), model="x", source="local"),
        "student",
    ),
}
MAKERS = """
from pathlib import Path
import torch
from fastgen.sampling.solvers import Heun, Solver
def optimizer(params, lr: float = 0.1) -> torch.optim.Optimizer:
    {canary}.touch()
    return torch.optim.Adam(params, lr)
def solver() -> Solver:
    {canary}.touch()
    return Heun()
"""


@pytest.mark.parametrize("name", IN_CONFIGS)
def test_a_function_in_a_config_is_refused(name: str, canary: Path, capfd: pytest.CaptureFixture[str]):
    place, make, says = IN_CONFIGS[name]
    (canary.parent / "makers.py").write_text(MAKERS.format(canary=repr(canary).replace("PosixPath", "Path")))
    config = put(mixture(canary.parent, steps=1, batch_size=4), place, make(canary))
    said = run_with(config, canary.parent, capfd)
    assert says in said and len(said) < 400, said
    assert not canary.exists()


def test_secrets_are_masked_in_what_is_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """A run's config and checkpoint hold no key; a run from that config asks for it again."""
    (tmp_path / "keys.py").write_text(
        "from fastgen.denoisers import MLP\n"
        "from fastgen.processes import Process\n"
        "from lightning.pytorch import Callback\n"
        "from lightning.pytorch.loggers import CSVLogger\n"
        "from fastgen.data import Mixture\n"
        "class Hub(MLP):\n"
        "    def __init__(self, process: Process, hub_token: str | None = None, width: int = 4):\n"
        "        super().__init__(process, width=width)\n"
        "class Logger(CSVLogger):\n"
        "    def __init__(self, save_dir: str, api_key: str, url: str):\n"
        "        assert api_key == 'hush' and 'hushed' in url\n"
        "        super().__init__(save_dir)\n"
        "class Notify(Callback):\n"
        "    def __init__(self, api_key: str, names: tuple[dict[str, str], ...] = ()):\n"
        "        assert api_key == names[0]['token'] == 'hush'\n"
        "class Points(Mixture):\n"
        "    def __init__(self, password: str, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        config = mixture(tmp_path, steps=1, batch_size=4)
        config["model"]["init_args"]["student"] = of_class("keys.Hub", process=EDM, hub_token="hush")
        config["trainer"]["logger"] = of_class(
            "keys.Logger", save_dir=str(tmp_path), api_key="hush", url="https://me:hushed@there/x"
        )
        config["trainer"]["callbacks"] = [checkpoint(1)]
        plain = deepcopy(config)
        config["trainer"]["callbacks"].append(of_class("keys.Notify", api_key="hush", names=[{"token": "hush"}]))
        config["data"] = of_class("keys.Points", password="hush", **config["data"]["init_args"])
        assert fastgen("fit", "--config", write(tmp_path / "a.yaml", config)) == 0
        run = tmp_path / "lightning_logs" / "version_0"
        saved = (run / "config.yaml").read_text()
        assert "hush" not in saved and saved.count("*" * 8) == 6 and "me:" in saved
        last = run / "checkpoints/last.ckpt"
        assert b"hush" not in last.read_bytes()
        settings = torch.load(last, weights_only=True)["fastgen"]["settings"]
        assert settings["data"]["init_args"]["password"] == "*" * 8
        assert settings["callbacks"]["Notify"] == {"api_key": "*" * 8, "names": [{"token": "*" * 8}]}
        capfd.readouterr()
        assert fastgen("fit", "--config", run / "config.yaml") == 2
        assert "is a secret" in capfd.readouterr().err
        written = yaml.safe_load(saved)  # what is not in the model does without keys now
        written["trainer"]["callbacks"], written["data"] = plain["trainer"]["callbacks"], plain["data"]
        write(run / "config.yaml", written)
        again = ["--trainer.logger.init_args.api_key=hush", "--trainer.logger.init_args.url=https://me:hushed@there/x"]
        assert fastgen("fit", "--config", run / "config.yaml", *again) == 2
        assert "model.init_args.student.init_args.hub_token" in capfd.readouterr().err
        assert method_from_checkpoint(last, trust=["keys"]).student.sample_shape == (2,)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("keys", None)


def test_what_the_user_trusts_is_built(canary: Path, recipe: dict[str, Any]):
    wanted = put(recipe, "init_args.student", of_class("stranger.Net", process=EDM, width=16, depth=1))
    with pytest.raises(UserError, match="--trust stranger"):
        generator_from(wanted)
    assert not canary.exists()
    method = generator_from(wanted, ["stranger"])
    method.configure_for_sampling()
    assert type(method.student).__name__ == "Net" and canary.exists()
    with pytest.raises(UserError, match="--trust"):
        generator_from(wanted, ["stranger; import os"])
    for still in ("stranger.optimizer", "stranger.Optimizer", "stranger.torch.os.system", "stranger.Path"):
        with pytest.raises(UserError):
            generator_from(put(recipe, "init_args.student", of_class(still)), ["stranger"])


def poison(checkpoint: Path, out: Path, place: str, value: Any) -> Path:
    """A copy of a checkpoint with another recipe."""
    saved = torch.load(checkpoint, weights_only=True)
    saved["fastgen"]["recipe"] = put(saved["fastgen"]["recipe"], place, value)
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(saved, out)
    return out


@pytest.mark.parametrize("command", ["sample", "export", "pairs", "report"])
def test_commands_on_a_poisoned_checkpoint(
    command: str, trained: Path, canary: Path, capfd: pytest.CaptureFixture[str]
):
    """Refused with one sentence where the poison would be built, and without effect where it would not."""
    run = canary.parent / "run"
    file = run / "checkpoints/last.ckpt"
    words = {
        "sample": ["--ckpt", file, "--seeds=0-3"],
        "export": ["--ckpt", file, "--out", "exported"],
        "pairs": ["--ckpt", file, "--role=student", "--count=4", "--out", "pairs"],
        "report": [run, "--out", "page", "--seeds=0-3"],
    }[command]
    run.mkdir()
    (run / "config.yaml").write_text("model: {class_path: fastgen.methods.SiD}\n")
    for place, value in {"student": of_class("stranger.Net", process=EDM), "teacher": shell(canary)}.items():
        poison(trained / "checkpoints/last.ckpt", file, f"init_args.{place}", value)
        code = fastgen(command, *words)
        err = capfd.readouterr().err
        assert code == (0 if command == "report" else 2)  # a report says it and goes on
        assert f"model.init_args.{place}" in err and "Traceback" not in err
        assert not canary.exists() and "stranger" not in sys.modules
    poison(trained / "checkpoints/last.ckpt", file, "init_args.student_optimizer", shell(canary))
    assert fastgen(command, *words) == (2 if command == "export" else 0)  # an MLP has no pipeline
    assert "student_optimizer" not in capfd.readouterr().err and not canary.exists()


class Bomb:
    """Touches the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def bombs(canary: Path) -> dict[str, Path]:
    """Pickles under the names of what is read."""
    folder, bomb = canary.parent / "bombs", Bomb(canary)
    folder.mkdir()
    torch.save({"fastgen": bomb, "state_dict": {}}, folder / "last.ckpt")
    torch.save({"weights": bomb}, folder / "weights.pth")
    np.savez(folder / "reference.npz", mu=np.array([bomb], dtype=object), sigma=np.array([bomb], dtype=object))
    for name in ("reference.pkl", "weights.safetensors", "reference.safetensors"):
        (folder / name).write_bytes(pickle.dumps(bomb))
    return {file.name: file for file in folder.iterdir()}


def test_pickles_are_never_opened(canary: Path):
    files = bombs(canary)
    readers = {
        "last.ckpt": read_checkpoint,
        "weights.pth": read_weights,
        "weights.safetensors": load_tensors,
        "reference.npz": read_reference,
        "reference.pkl": read_reference,
        "reference.safetensors": read_reference,
    }
    for name, read in readers.items():
        with pytest.raises(UserError):
            read(files[name])
        assert not canary.exists(), name


def test_a_poisoned_run_folder_runs_nothing(canary: Path, capfd: pytest.CaptureFixture[str]):
    """Tags of YAML, pickles under the names of a run's files, and values that are programs in other languages."""
    run = canary.parent / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/last.ckpt").write_bytes(bombs(canary)["last.ckpt"].read_bytes())
    (run / "config.yaml").write_text(f"model: !!python/object/apply:os.system ['touch {canary}']\n")
    call = f"__import__('os').system('touch {canary}')"
    line = {"student_updates": 1, "role": "average", "values": {call: 1.0}, "kind": call, "sentence": call}
    for name in ("metrics.jsonl", "health.jsonl"):
        (run / name).write_text(json.dumps(line) + "\n" + call + "\n")
    (run / "throughput.json").write_bytes(pickle.dumps(Bomb(canary)))
    for words in (
        ["report", run, "--out", "page"],
        ["compare", run],
        ["scores", run, f"geneval={run / 'config.yaml'}"],
    ):
        fastgen(*words)
        assert "Traceback" not in capfd.readouterr().err and not canary.exists(), words


def test_a_poisoned_config_runs_nothing(canary: Path, capfd: pytest.CaptureFixture[str]):
    file = canary.parent / "config.yaml"
    file.write_text(f"data: !!python/object/apply:os.system ['touch {canary}']\n")
    for words in (
        ["fit", "--config", file],
        ["pairs", "--config", file],
        ["stats", "--data", file, "--extractor", "DigitsClassifier", "--out", "x.safetensors"],
    ):
        assert fastgen(*words) == 2
        assert "Traceback" not in capfd.readouterr().err and not canary.exists(), words
    pairs = canary.parent / "pairs"
    pairs.mkdir()
    (pairs / "manifest.json").write_bytes(pickle.dumps(Bomb(canary)))
    (pairs / "pairs-00000.safetensors").write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(UserError):
        read_manifest(pairs)
    assert not canary.exists()


PROMPTS: dict[str, Callable[[Path], bytes]] = {
    "pickle.txt": lambda c: pickle.dumps(Bomb(c)),
    "pickle.csv": lambda c: pickle.dumps(Bomb(c)),
    "pickle.jsonl": lambda c: pickle.dumps(Bomb(c)),
    "pickle.pkl": lambda c: pickle.dumps(Bomb(c)),
    "class.jsonl": lambda c: json.dumps({"text": shell(c)}).encode(),
    "tag.yaml": lambda c: f"!!python/object/apply:os.system ['touch {c}']".encode(),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_poisoned_prompt_file_runs_nothing(name: str, canary: Path):
    file = canary.parent / name
    file.write_bytes(PROMPTS[name](canary))
    with pytest.raises(UserError):
        read_prompts(str(file))
    assert not canary.exists()


def test_prompts_that_look_like_programs_are_texts(canary: Path):
    lines = [
        f"$(touch {canary})",
        f"!!python/object/apply:os.system ['touch {canary}']",
        f"{{__import__('os')}} {canary}",
    ]
    (canary.parent / "prompts.txt").write_text("\n".join(lines))
    assert read_prompts(str(canary.parent / "prompts.txt")) == lines and not canary.exists()


def test_a_poisoned_lora_folder_runs_nothing(canary: Path):
    """One that lies where weights and pipelines are expected: pickles under its names, and classes in its configs."""
    folder = canary.parent / "lora"
    folder.mkdir()
    for name in ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin", "adapter_model.bin"):
        (folder / name).write_bytes(pickle.dumps(Bomb(canary)))
    config = {"peft_type": "LORA", "auto_mapping": {"parent_library": "stranger", "base_model_class": "Net"}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    for name in ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin", "adapter_model.bin"):
        with pytest.raises(UserError):
            MLP(EDMProcess(), weights=str(folder / name)).load_weights()
        with pytest.raises(UserError):
            read_weights(folder / name)
    for kind in (StableDiffusion, StableDiffusion3):
        with pytest.raises(UserError):
            kind(str(folder))
    assert not canary.exists() and "stranger" not in sys.modules


def test_a_resume_from_a_poisoned_recipe_runs_nothing(trained: Path, canary: Path, capfd: pytest.CaptureFixture[str]):
    """What a config trains is the config's; the recipe in the checkpoint is compared with it as plain data."""
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["trainer"]["logger"]["init_args"]["save_dir"] = str(canary.parent)
    config["trainer"]["max_steps"] = 2
    file = write(canary.parent / "config.yaml", config)
    places = {"student": of_class("stranger.Net", process=EDM), "teacher": shell(canary), "extras": [shell(canary)]}
    for place, value in places.items():
        odd = canary.parent / f"{place}.ckpt"
        poison(trained / "checkpoints/last.ckpt", odd, f"init_args.{place}", value)
        saved = torch.load(odd, weights_only=True)
        for digests in ("old", "of the poison"):
            if digests != "old":
                seal(saved)
                torch.save(saved, odd)
            assert fastgen("fit", "--config", file, "--ckpt_path", odd) == (2 if digests == "old" else 0)
            assert "Traceback" not in capfd.readouterr().err
            assert not canary.exists() and "stranger" not in sys.modules, place


def test_pairs_build_no_trainer(canary: Path, capfd: pytest.CaptureFixture[str]):
    """What a config holds beside its model is of no meaning to ``pairs`` and is not built."""
    config = mixture(canary.parent, steps=1) | {"trainer": of_class("stranger.Net"), "data": shell(canary)}
    file = write(canary.parent / "config.yaml", config)
    assert fastgen("pairs", "--config", file, "--count=4", "--steps=2", "--out", canary.parent / "pairs") == 0
    assert "Traceback" not in capfd.readouterr().err and not canary.exists()


@pytest.mark.parametrize(
    "index",
    [
        {"_class_name": "StableDiffusionPipeline", "unet": ["stranger", "Net"]},
        {"_class_name": "StableDiffusionPipeline", "vae": ["subprocess", "Popen"]},
        {"_class_name": ["stranger", "Net"]},
        {"_class_name": "utils"},
        {"_class_name": "__version__"},
    ],
)
def test_a_poisoned_pipeline_folder_runs_nothing(index: dict[str, Any], canary: Path):
    folder = canary.parent / "pipeline"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet/stranger.py").write_text((canary.parent / "stranger.py").read_text())
    (folder / "pipeline.py").write_text((canary.parent / "stranger.py").read_text())
    with pytest.raises(UserError):
        PipelineFolder(str(folder)).assemble({})
    assert not canary.exists() and "stranger" not in sys.modules


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("api_key", True),
        ("apikey", True),
        ("wandb_api_key", True),
        ("hub_token", True),
        ("token", True),
        ("password", True),
        ("client_secret", True),
        ("tokenizer", False),
        ("max_tokens", False),
        ("key", False),
        ("monkey", False),
    ],
)
def test_names_of_secrets(name: str, hidden: bool):
    assert masked({"a": [{name: "x"}]}) == {"a": [{name: "*" * 8 if hidden else "x"}]}
    assert masked({"a": ({name: "x"}, 2)}) == {"a": ({name: "*" * 8 if hidden else "x"}, 2)}
    assert masked({name: None, "n": 3}) == {name: None, "n": 3}
