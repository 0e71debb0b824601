"""Every mistake ends with one sentence that names the place, and touches no earlier checkpoint."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import EDM, EMA, MLP, UNET, checkpoint, digits, fastgen, mixture, write
from PIL import Image
from safetensors.torch import save_file


@dataclass
class Place:
    """Where bad runs happen: earlier checkpoints lie in ``kept``; a run that goes on with one would write there too."""

    folder: Path
    kept: Path
    points: Path
    images: Path
    weights: Path

    def digests(self) -> dict[str, str]:
        files = [path for path in self.kept.rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Two good runs, whose checkpoints the bad runs are pointed at."""
    folder = tmp_path_factory.mktemp("bad")
    kept = folder / "kept"
    for name, make in (("points", mixture), ("images", digits)):
        config = into(kept / name, make(folder, steps=2, batch_size=8))
        assert fastgen("fit", "--config", write(folder / "good.yaml", config)) == 0
    found = Place(
        folder, kept, kept / "points/last.ckpt", kept / "images/last.ckpt", kept / "points/student.safetensors"
    )
    assert len(found.digests()) >= 6
    return found


def into(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The config with its checkpoints in ``folder``."""
    config["trainer"]["callbacks"] = [EMA, checkpoint(1, dirpath=str(folder))]
    return config


def sentence(capfd: pytest.CaptureFixture[str], code: int) -> str:
    """The one sentence that the command left on standard error."""
    out, err = capfd.readouterr()
    assert code == 2, err
    assert "Traceback" not in out + err
    (said,) = [line.removeprefix("fastgen: ") for line in err.splitlines() if line.startswith("fastgen: ")]
    assert re.search(r"[.?!]$", said), said
    assert not re.search(r"[.?!] [A-Z]", said), said  # one sentence
    assert len(said) < 500 and "\x1b" not in said
    return said


Change = Callable[[dict[str, Any], Place], None]


@dataclass
class Mistake:
    """A bad run: a change of a good config, words on the command line, or both.

    Attributes:
        name: Name of the test.
        says: What the sentence must hold.
        change: Changes the config in place.
        words: Further words; ``{place.points}`` etc. are filled in.
        base: ``points`` or ``images``.
        command: The subcommand.
    """

    name: str
    says: Iterable[str]
    change: Change = field(default=lambda config, place: None)
    words: Iterable[str] = ()
    base: str = "points"
    command: str = "fit"


def put(dotted: str, value: Any) -> Change:
    """Sets ``model.init_args.alpha`` or the like."""

    def change(config: dict[str, Any], place: Place) -> None:
        *path, name = dotted.split(".")
        for part in path:
            config = config[part]
        config[name] = value(place) if callable(value) else deepcopy(value)

    return change


def drop(dotted: str) -> Change:
    def change(config: dict[str, Any], place: Place) -> None:
        *path, name = dotted.split(".")
        for part in path:
            config = config[part]
        del config[name]

    return change


def both(*changes: Change) -> Change:
    def change(config: dict[str, Any], place: Place) -> None:
        for one in changes:
            one(config, place)

    return change


def truncated(source: str, name: str) -> Callable[[Place], str]:
    """A file of the good runs without its second half."""

    def make(place: Place) -> str:
        data = Path(source.format(place=place)).read_bytes()
        (place.folder / name).write_bytes(data[: len(data) // 2])
        return str(place.folder / name)

    return make


def image_folder(name: str, *sizes: int, corrupt: bool = False, classes: int = 0) -> Change:
    """Data from a folder of noise images, for a run that learns from real images."""

    def change(config: dict[str, Any], place: Place) -> None:
        root = place.folder / name
        for i, size in enumerate(sizes):
            file = root / (f"{i % classes:02d}/{i}.png" if classes else f"{i}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.frombytes("L", (size, size), bytes(size * size)).save(file)
        root.mkdir(exist_ok=True)
        if corrupt:
            (root / "2.png").write_bytes((root / "2.png").read_bytes()[:40])
        network = deepcopy(UNET)
        if not classes:
            network["init_args"]["num_classes"] = 0
        config["model"] = {"class_path": "TeacherTraining", "init_args": {"student": network}}
        arguments = {"root": str(root), "resolution": sizes[0] if sizes else 8, "color": "grey", "batch_size": 4}
        more = {"annotation": "folders" if classes else "none", "held_out_fraction": 0.0}
        config["data"] = {"class_path": "ImageFolder", "init_args": arguments | more}

    return change


def prompts(content: str | None) -> Change:
    """Prompts as data."""

    def change(config: dict[str, Any], place: Place) -> None:
        path = place.folder / "prompts.txt"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
        config["data"] = {"class_path": "Prompts", "init_args": {"path": str(path), "batch_size": 2}}

    return change


def foreign(place: Place) -> str:
    torch.save(
        {"state_dict": {"weight": torch.ones(2)}, "pytorch-lightning_version": "2.6.6"}, place.folder / "other.ckpt"
    )
    return str(place.folder / "other.ckpt")


class Anything:
    """Unknown to everybody."""


def pickled(place: Place) -> str:
    torch.save({"fastgen": {}, "state_dict": {}, "object": Anything()}, place.folder / "pickled.ckpt")
    return str(place.folder / "pickled.ckpt")


def other_weights(place: Place) -> str:
    save_file({"layer.weight": torch.ones(2, 2)}, place.folder / "other.safetensors")
    return str(place.folder / "other.safetensors")


def text_file(name: str, content: str) -> Callable[[Place], str]:
    def make(place: Place) -> str:
        (place.folder / name).write_text(content)
        return str(place.folder / name)

    return make


def word(option: str, make: Callable[[Place], str]) -> Callable[[Place], str]:
    return lambda place: f"--{option}={make(place)}"


S, T, D = "model.init_args", "trainer", "data.init_args"
GAN = [{"class_path": "GAN"}]
WIDE = MLP | {"init_args": MLP["init_args"] | {"width": 24}}
MISTAKES = [
    Mistake("unknown key at the top", ["modle"], put("modle", {"class_path": "SiD"})),
    Mistake("unknown key of the trainer", ["max_stepz"], put(f"{T}.max_stepz", 3)),
    Mistake("unknown key of the method", ["alfa"], put(f"{S}.alfa", 1.0)),
    Mistake(
        "unknown key deep inside",
        ["student", "widht"],
        put(f"{S}.student", MLP | {"init_args": {"process": EDM, "widht": 3}}),
    ),
    Mistake("unknown option", ["trainer", "max_stepz"], words=["--trainer.max_stepz=3"]),
    Mistake("wrong type", ["alpha", "number"], put(f"{S}.alpha", "much")),
    Mistake("wrong type on the command line", ["max_steps", "int"], words=["--trainer.max_steps=many"]),
    Mistake(
        "wrong type deep inside",
        ["student.init_args.width", "int"],
        put(f"{S}.student.init_args", {"process": EDM, "width": "wide"}),
    ),
    Mistake("unknown class", ["student", "MPL"], put(f"{S}.student", {"class_path": "MPL"})),
    Mistake("unknown method", ["model", "SID2"], put("model.class_path", "SID2")),
    Mistake("unknown module", ["nowhere"], put("model.class_path", "nowhere.Method")),
    Mistake("wrong kind of class", ["student", "Linear"], put(f"{S}.student", {"class_path": "torch.nn.Linear"})),
    Mistake(
        "missing required argument", ["student", "process"], put(f"{S}.student", {"class_path": "MLP", "init_args": {}})
    ),
    Mistake("missing argument of the data", ["distribution"], drop(f"{D}.distribution")),
    Mistake("neither teacher nor student", ["teacher"], put("model", {"class_path": "SiD"})),
    Mistake(
        "unknown choice",
        ["reduction", "total"],
        put(f"{S}.critic_objective", {"class_path": "DenoisingLoss", "init_args": {"reduction": "total"}}),
    ),
    Mistake("missing config", ["absent.yaml"], words=["--config=absent.yaml"]),
    Mistake(
        "broken YAML",
        ["broken.yaml"],
        words=[word("config", text_file("broken.yaml", "trainer: {max_steps: 3\nmodel: ]"))],
    ),
    Mistake("YAML that is no mapping", ["list.yaml"], words=[word("config", text_file("list.yaml", "- 1\n- 2\n"))]),
    Mistake("no steps", ["trainer.max_steps"], put(f"{T}.max_steps", 0)),
    Mistake("negative steps", ["trainer.max_steps"], put(f"{T}.max_steps", -5)),
    Mistake("endless", ["trainer.max_steps"], drop(f"{T}.max_steps")),
    Mistake(
        "solver without steps",
        ["solver", "steps"],
        put(f"{S}.solver", {"class_path": "Heun", "init_args": {"steps": 0}}),
    ),
    Mistake(
        "increasing student times", ["student times", "decreasing"], put(f"{S}.sampler.init_args.times", [1.0, 2.0])
    ),
    Mistake("condition dropout of 2", ["condition_dropout"], put(f"{S}.guidance", {"condition_dropout": 2.0})),
    Mistake("micro_batches of 0", ["micro_batches"], put(f"{S}.micro_batches", 0)),
    Mistake("micro_batches that do not divide", ["micro_batches", "8", "3"], put(f"{S}.micro_batches", 3)),
    Mistake("batch size 0", ["batch_size"], put(f"{D}.batch_size", 0)),
    Mistake("half precision", ["trainer.precision", "bf16"], put(f"{T}.precision", "16-mixed")),
    Mistake(
        "accumulation of the trainer",
        ["accumulate_grad_batches", "micro_batches"],
        put(f"{T}.accumulate_grad_batches", 2),
    ),
    Mistake(
        "clipping of the trainer", ["gradient_clip_val", "init_args.gradient_clip."], put(f"{T}.gradient_clip_val", 1.0)
    ),
    Mistake("unknown accelerator", ["accelerator", "warp"], put(f"{T}.accelerator", "warp")),
    Mistake("accelerator that is not there", ["torch_xla"], put(f"{T}.accelerator", "tpu")),
    Mistake("unknown strategy", ["strategy", "telepathy"], put(f"{T}.strategy", "telepathy")),
    Mistake("no devices", ["devices"], put(f"{T}.devices", 0)),
    Mistake("GAN without real data", ["GAN", "x0"], put(f"{S}.extras", GAN), base="images-free"),
    Mistake("guidance without a condition", ["guidance.teacher", "condition"], put(f"{S}.guidance", {"teacher": 2.0})),
    Mistake(
        "guidance of an unconditional network",
        ["UNet", "guid"],
        both(put(f"{S}.guidance", {"teacher": 2.0}), put(f"{S}.teacher.init_args.num_classes", 0)),
        base="images",
    ),
    Mistake("missing weights", ["absent.safetensors"], put(f"{S}.student.init_args.weights", "absent.safetensors")),
    Mistake(
        "weights of another network", ["other.safetensors", "MLP"], put(f"{S}.student.init_args.weights", other_weights)
    ),
    Mistake(
        "weights of another width",
        ["student.safetensors"],
        both(put(f"{S}.student", WIDE), put(f"{S}.student.init_args.weights", lambda place: str(place.weights))),
    ),
    Mistake(
        "truncated weights",
        ["half.safetensors"],
        put(f"{S}.student.init_args.weights", truncated("{place.weights}", "half.safetensors")),
    ),
    Mistake(
        "folder as weights", ["kept", "folder"], put(f"{S}.student.init_args.weights", lambda place: str(place.kept))
    ),
    Mistake("labels beyond the network's", ["label", "5"], put(f"{S}.teacher.init_args.num_classes", 5), base="images"),
    Mistake("images of another size", ["16", "8"], image_folder("large", 16, 16, 16, 16)),
    Mistake("image of an odd size", ["3.png", "5x5"], both(image_folder("odd", 8, 8, 8, 5), put(f"{D}.resize", False))),
    Mistake("more class folders than classes", ["label", "10"], image_folder("classes", *[8] * 24, classes=12)),
    Mistake("empty image folder", ["empty"], image_folder("empty")),
    Mistake("missing image folder", ["nowhere"], both(image_folder("empty"), put(f"{D}.root", "nowhere"))),
    Mistake("broken image", ["2.png"], image_folder("broken", 8, 8, 8, 8, corrupt=True)),
    Mistake(
        "broken image in a worker",
        ["2.png"],
        both(image_folder("broken", 8, 8, 8, 8, corrupt=True), put(f"{D}.num_workers", 1)),
    ),
    Mistake("empty prompt file", ["prompts.txt"], prompts("\n\n")),
    Mistake("missing prompt file", ["prompts.txt"], prompts(None)),
    Mistake("prompts for a network of labels", ["prompt"], prompts("a cat\na dog\n"), base="images"),
    Mistake(
        "unknown metric class",
        ["init_args.suite", "Guess"],
        put(f"{T}.callbacks", [{"class_path": "Evaluate", "init_args": {"suite": {"class_path": "Guess"}}}]),
    ),
    Mistake(
        "bad EMA",
        ["decay"],
        put(
            f"{T}.callbacks",
            [{"class_path": "EMA", "init_args": {"rule": {"class_path": "ConstantEMA", "init_args": {"decay": 2.0}}}}],
        ),
    ),
    # checkpoints
    Mistake("missing checkpoint", ["absent.ckpt"], words=["--ckpt_path=absent.ckpt"]),
    Mistake("folder as checkpoint", ["points"], words=["--ckpt_path={place.points.parent}"]),
    Mistake("truncated checkpoint", ["half.ckpt"], words=[word("ckpt_path", truncated("{place.points}", "half.ckpt"))]),
    Mistake("pickled checkpoint", ["pickled.ckpt"], words=[word("ckpt_path", pickled)]),
    Mistake("foreign checkpoint", ["other.ckpt"], words=[word("ckpt_path", foreign)]),
    Mistake("text as checkpoint", ["text.ckpt"], words=[word("ckpt_path", text_file("text.ckpt", "weights"))]),
    Mistake(
        "checkpoint of another method",
        ["SiD", "DMD2"],
        put("model.class_path", "DMD2"),
        words=["--ckpt_path={place.points}"],
    ),
    Mistake(
        "checkpoint of another width", ["averages.ema"], put(f"{S}.student", WIDE), words=["--ckpt_path={place.points}"]
    ),
    Mistake("checkpoint of another data set", ["averages.ema"], words=["--ckpt_path={place.points}"], base="images"),
    Mistake(
        "checkpoint with an EMA, run without",
        ["averages.ema", "EMA"],
        put(f"{T}.callbacks", []),
        words=["--ckpt_path={place.points}"],
    ),
    Mistake("validate a missing checkpoint", ["absent.ckpt"], words=["--ckpt_path=absent.ckpt"], command="validate"),
]


def config_of(mistake: Mistake, place: Place) -> dict[str, Any]:
    goes_on = any(callable(word) or "ckpt_path" in word for word in mistake.words)
    own = place.folder / "own" / mistake.name.replace(" ", "-")  # two runs in one folder are a mistake of their own
    if mistake.base == "points":
        config = mixture(place.folder, steps=4, batch_size=8)
        return into(place.points.parent if goes_on else own, config)
    config = into(place.images.parent if goes_on else own, digits(place.folder, steps=4, batch_size=8))
    if mistake.base == "images-free":
        ring = {"class_path": "RingMixture", "init_args": {"process": EDM}}
        network = MLP
        config["model"] = {"class_path": "SiD", "init_args": {"teacher": network}}
        config["data"] = {"class_path": "Mixture", "init_args": {"distribution": ring, "batch_size": 8}}
    return config


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name.replace(" ", "-"))
def test_mistake(mistake: Mistake, place: Place, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place.folder)
    config = config_of(mistake, place)
    mistake.change(config, place)
    words = [word(place) if callable(word) else word.format(place=place) for word in mistake.words]
    before = place.digests()
    path = write(place.folder / "config.yaml", yaml.safe_load(yaml.safe_dump(config)))
    code = fastgen(mistake.command, "--config", path, *words)
    said = sentence(capfd, code)
    for part in mistake.says:
        assert part in said
    assert place.digests() == before
    assert not list(place.kept.rglob(".writing*"))


SAMPLE = {
    "no checkpoint": (["--out=x.png"], ["--ckpt"]),
    "missing checkpoint": (["--ckpt=absent.ckpt"], ["absent.ckpt"]),
    "foreign checkpoint": (["--ckpt={foreign}"], ["other.ckpt"]),
    "pickled checkpoint": (["--ckpt={pickled}"], ["pickled.ckpt"]),
    "bad seeds": (["--ckpt={place.points}", "--seeds=one"], ["one"]),
    "backward seeds": (["--ckpt={place.points}", "--seeds=9-3"], ["9-3"]),
    "no steps": (["--ckpt={place.points}", "--steps=0"], ["step", "0"]),
    "batch size 0": (["--ckpt={place.points}", "--batch-size=0"], ["--batch-size"]),
    "label out of range": (["--ckpt={place.images}", "--labels=3,10"], ["--labels", "10"]),
    "prompts for a network of labels": (["--ckpt={place.images}", "--prompt=a cat"], ["prompt"]),
    "labels for an unconditional network": (["--ckpt={place.points}", "--labels=1"], ["--labels"]),
    "unknown role": (["--ckpt={place.points}", "--role=pupil"], ["pupil", "student"]),
    "unknown device": (["--ckpt={place.points}", "--device=warp"], ["--device"]),
    "unknown picture format": (["--ckpt={place.points}", "--out=x.qqq"], [".qqq"]),
    "no columns": (["--ckpt={place.images}", "--columns=0"], ["--columns"]),
    "unknown option": (["--ckpt={place.points}", "--sedes=3"], ["--sedes"]),
    "steps that are no number": (["--ckpt={place.points}", "--steps=few"], ["--steps", "few"]),
}


@pytest.mark.parametrize("name", SAMPLE)
def test_mistake_in_sample(name: str, place: Place, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place.folder)
    words, says = SAMPLE[name]
    before = place.digests()
    code = fastgen(
        "sample", *[word.format(place=place, foreign=foreign(place), pickled=pickled(place)) for word in words]
    )
    said = sentence(capfd, code)
    for part in says:
        assert part in said
    assert place.digests() == before


def test_unknown_command(capfd: pytest.CaptureFixture[str]):
    assert "'train'" in sentence(capfd, fastgen("train", "--config", "x.yaml"))


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (None, "from Python"),  # a run from Python leaves none
        ({"class_path": "elsewhere.Method", "init_args": {}}, "elsewhere"),
        ({"class_path": "SiD", "init_args": {"alfa": 1.0}}, "alfa"),
    ],
)
def test_a_checkpoint_with_an_unusable_recipe(
    recipe: dict[str, Any] | None, says: str, place: Place, capfd: pytest.CaptureFixture[str]
):
    saved = torch.load(place.points, weights_only=True)
    saved["fastgen"]["recipe"] = recipe
    torch.save(saved, place.folder / "odd.ckpt")
    said = sentence(capfd, fastgen("sample", f"--ckpt={place.folder / 'odd.ckpt'}"))
    assert says in said and "odd.ckpt" in said
