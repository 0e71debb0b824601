"""Every refusal of a configuration or a command line is one sentence with key or option, and the mend."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer

import fastgen.callbacks
import fastgen.data
import fastgen.extras
import fastgen.metrics  # noqa: F401
from fastgen.__main__ import main
from fastgen.cli.parser import ConfigParser
from fastgen.configuration.diagnosis import fault_of
from fastgen.data import DistillationData
from fastgen.errors import UserError
from fastgen.methods import Distiller

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "configs/sid_mixture.yaml").read_text())
CONFIG = json.loads(json.dumps(CONFIG))  # without aliases: a change is of one place
M, S, T, D = "model.init_args", "model.init_args.student", "model.init_args.teacher", "data.init_args"
RATE = "model.init_args.student_optimizer.init_args"

JARGON = ("<class", "Union", "subclass", "subtype", "jsonargparse", "Traceback", "typing.", "Namespace(", "Parser key")


def assert_is_sentence(said: str) -> None:
    assert said.endswith("."), said
    assert "\n" not in said and len(said) <= 400, said
    assert not [word for word in JARGON if word in said], said


@pytest.fixture(scope="module")
def parser() -> ConfigParser:
    """What ``fastgen fit`` reads its configs with."""
    found = ConfigParser(exit_on_error=False)
    found.add_argument("--config")
    found.add_argument("--threads", type=int | None, default=None)
    found.add_lightning_class_args(Trainer, "trainer")
    found.add_lightning_class_args(Distiller, "model", subclass_mode=True)
    found.add_lightning_class_args(DistillationData, "data", subclass_mode=True)
    return found


def changed(dotted: str, value: Any) -> dict[str, Any]:
    """The config with another value; ``...`` removes it."""
    config = deepcopy(CONFIG)
    place: Any = config
    *path, last = dotted.split(".")
    for name in path:
        place = place[int(name) if isinstance(place, list) else name]
    if value is ...:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return config


FAULTS = [
    (S, 3, "model.init_args.student must be a class (Denoiser or FromTeacher), got 3."),
    (S, [1], "model.init_args.student must be a class (Denoiser or FromTeacher), got [1]."),
    (S, True, "must be a class (Denoiser or FromTeacher), got true."),
    (S, {"width": 3}, "model.init_args.student has no class_path; write 'class_path: "),
    (S, {"init_args": {}}, "model.init_args.student has init_args but no class_path; name the class."),
    (S, {"class_path": "MLP", "width": 3}, "model.init_args.student has the key 'width' beside class_path; move it"),
    (S, {"class_path": "MLP"}, "model.init_args.student.init_args lacks 'process'; give it."),
    (f"{S}.class_path", 3, "model.init_args.student.class_path must be the name of a class, got 3."),
    (f"{S}.class_path", None, "model.init_args.student.class_path must be the name of a class, got null."),
    (f"{S}.class_path", "MPL", "there is no Denoiser or FromTeacher called 'MPL'"),
    (f"{S}.class_path", "MLPP", "(did you mean 'MLP'?); choose one of "),
    (f"{S}.class_path", "SiD", "there is no Denoiser or FromTeacher called 'SiD'"),
    (f"{S}.class_path", "nowhere.Net", "there is no module 'nowhere'; install it, mend the name or set PYTHONPATH."),
    (f"{S}.class_path", "fastgen.denoisers.MPLP", "there is no 'MPLP' in fastgen.denoisers"),
    (f"{S}.class_path", "fastgen.denoisers.UNett", "in fastgen.denoisers (did you mean 'UNet'?); mend the name."),
    (f"{S}.class_path", "os.path", "'os.path' is a module; give the path of a class"),
    (f"{S}.class_path", "os.getcwd", "'os.getcwd' is a function; give the path of a class"),
    (f"{S}.class_path", "torch.nn.Linear", "'torch.nn.Linear' is no Denoiser or FromTeacher; choose one of "),
    (f"{S}.class_path", "a-b.C", "'a-b.C' is no path of a class; write module.Class."),
    (f"{S}.class_path", "needs_another.Net", "'needs_another' needs the module 'not_there', which is missing; install"),
    (f"{S}.class_path", "broken_inside.Net", "'broken_inside' cannot be imported (no licence found); mend it."),
    (f"{S}.init_args", 3, "model.init_args.student.init_args must be a mapping of arguments, got 3."),
    (f"{S}.init_args", [], "model.init_args.student.init_args must be a mapping of arguments, got []."),
    (f"{S}.init_args.width", "wide", "model.init_args.student.init_args.width must be an integer, got 'wide'."),
    (f"{S}.init_args.width", [1], "model.init_args.student.init_args.width must be an integer, got [1]."),
    (f"{S}.init_args.width", {"a": 1}, "width must be an integer, got {'a': 1}."),
    (f"{S}.init_args.width", None, "width must be an integer, got null."),
    (f"{S}.init_args.width", 1.5, "width must be an integer, got 1.5."),
    (f"{S}.init_args.width", True, "width must be an integer, got true."),
    (f"{S}.init_args.widht", 3, "has no option 'widht' (did you mean 'width'?); known are process, "),
    (f"{S}.init_args.weights", 3, "weights must be text or null, got 3."),
    (f"{S}.init_args.process", 3, "model.init_args.student.init_args.process must be a class (Process), got 3."),
    (f"{S}.init_args.process.class_path", "EDMM", "there is no Process called 'EDMM' (did you mean 'EDM'?)"),
    (f"{M}.alpha", "much", "model.init_args.alpha must be a number, got 'much'."),
    (f"{M}.alpha", None, "model.init_args.alpha must be a number, got null."),
    (f"{M}.alpha", True, "model.init_args.alpha must be a number, got true."),
    (f"{M}.alpha", [1.0], "model.init_args.alpha must be a number, got [1.0]."),
    (f"{M}.alpha", "x" * 5000, f"model.init_args.alpha must be a number, got '{'x' * 60}...'."),
    (f"{M}.alpah", 1.0, "model.init_args has no option 'alpah' (did you mean 'alpha'?); known are alpha, "),
    (f"{M}.zzz", 1.0, "model.init_args has no option 'zzz'; known are alpha, "),
    (f"{M}.sampler.init_args.times", "soon", "model.init_args.sampler.init_args.times must be a list "),
    (f"{M}.sampler.init_args.times", ["soon"], "model.init_args.sampler.init_args.times[0] must be a number, got"),
    (
        f"{M}.renoise_time",
        {"class_path": "fastgen.time_laws.KarrasLevel"},
        "renoise_time.class_path: KarrasLevel is in fastgen.times.levels now; write KarrasLevel, without a path.",
    ),
    (f"{M}.sampler.init_args.stochastic", False, "sampler.init_args.stochastic is the class now: RenoiseSampler moves"),
    (f"{M}.sampler.init_args.steps", "many", "model.init_args.sampler.init_args.steps must be an integer, got 'many'."),
    (f"{M}.critic_objective.init_args.reduction", "max", "reduction must be one of "),
    ("model.class_path", "SID", "model.class_path: there is no Distiller called 'SID' (did you mean 'SiD'?)"),
    ("model.class_path", 3, "model.class_path must be the name of a class, got 3."),
    ("model.class_path", ..., "model has init_args but no class_path; name the class."),
    ("model", 3, "model must be a class (Distiller) or null, got 3."),
    ("model", [], "model must be a class (Distiller) or null, got []."),
    ("data", "Mixtures", "data: there is no DistillationData called 'Mixtures' (did you mean 'Mixture'?)"),
    (f"{D}.distribution", ..., "data.init_args lacks 'distribution'; give it."),
    (f"{D}.batch_size", 1.5, "data.init_args.batch_size must be an integer, got 1.5."),
    (f"{D}.batch_size", "10**5", "data.init_args.batch_size must be an integer, got '10**5'."),
    (f"{RATE}.lr", "fast", "model.init_args.student_optimizer.init_args.lr must be a number, got 'fast'."),
    (f"{RATE}.betas", 3, "model.init_args.student_optimizer.init_args.betas must be a list (each a number), got 3."),
    (f"{RATE}.betas", [0.9], "betas must have 2 values, got 1."),
    (f"{RATE}.lrr", 3, "has no option 'lrr' (did you mean 'lr'?); known are lr, betas, "),
    ("trainer", [1], "trainer must be a mapping with keys like accelerator, "),
    ("trainer.max_steps", "many", "trainer.max_steps must be an integer, got 'many'."),
    ("trainer.max_stepz", 3, "trainer has no option 'max_stepz' (did you mean 'max_steps'?); known are accelerator, "),
    ("trainer.callbacks", 3, "trainer.callbacks must be a list (each a class (Callback)) or a class (Callback) or "),
    ("trainer.callbacks.0", 3, "trainer.callbacks[0] must be a class (Callback), got 3."),
    ("trainer.callbacks.0.class_path", "EMAA", "trainer.callbacks[0].class_path: there is no Callback called 'EMAA'"),
    ("trainer.callbacks.1.init_args", {"seedz": 3}, "trainer.callbacks[1].init_args has no option 'seedz' (did you"),
    ("threads", "x", "threads must be an integer or null, got 'x'."),
    ("modle", {}, "there is no option 'modle' (did you mean 'model'?); known are "),
]


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Modules of a user that cannot be imported."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "needs_another.py").write_text("import not_there\n")
    (folder / "broken_inside.py").write_text("raise RuntimeError('no licence found')\n")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.mark.parametrize(("key", "value", "expected"), FAULTS, ids=[f"{k}={str(v)[:20]}" for k, v, _ in FAULTS])
def test_a_fault_of_a_config_is_told_with_its_key(
    key: str, value: Any, expected: str, parser: ConfigParser, modules: Path, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(changed(key, value)))
    said = fault_of(["--config", str(file)], parser)
    assert said is not None and expected in said
    assert_is_sentence(said)


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "configs").glob("*.yaml")), ids=lambda f: f.stem)
def test_a_good_config_has_no_fault(file: Path, parser: ConfigParser) -> None:
    assert fault_of([f"--config={file}"], parser) is None


WORDS = [
    (["--model.alpha", "x"], "model.init_args.alpha must be a number, got 'x'."),
    (["--model.student.width=x"], "model.init_args.student.init_args.width must be an integer, got 'x'."),
    (["--model=SiDD"], "model: there is no Distiller called 'SiDD' (did you mean 'SiD'?)"),
    (["--trainer.callbacks+=EMAA"], "trainer.callbacks[6]: there is no Callback called 'EMAA'"),
    (["--trainer.callbacks+=EMA", "--trainer.callbacks.start_step=x"], "[6].init_args.start_step must be an integer"),
    (["--threads="], "threads must be an integer or null, got ''."),
    (["--trainer.max_steps="], "trainer.max_steps must be an integer, got ''."),
    (["--trainer.max_stepz=3"], "trainer has no option 'max_stepz' (did you mean 'max_steps'?)"),
    (["--model", "absent.yaml"], "'absent.yaml' does not exist; give the path of an existing file."),
]


@pytest.mark.parametrize(("words", "expected"), WORDS, ids=[" ".join(words) for words, _ in WORDS])
def test_a_fault_of_the_command_line_is_told_with_its_key(
    words: list[str],
    expected: str,
    parser: ConfigParser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    monkeypatch.chdir(tmp_path)
    try:
        said = fault_of([f"--config={file}", *words], parser) or ""
    except UserError as error:
        said = str(error)
    assert expected in said
    assert_is_sentence(said)


COMMANDS = [
    (["fitt"], "'fitt' is no command (did you mean 'fit'?); choose one of: fit, "),
    (["sample", "--seeds"], "--seeds needs a value; give one."),
    (["sample", "--sedes=3"], "there is no option --sedes (did you mean '--seeds'?); known are "),
    (["sample"], "something is missing; give --ckpt."),
    (["sample", "--ckpt=a", "--steps=x"], "--steps must be an integer, got 'x'."),
    (["export", "--ckptt=a"], "(did you mean '--ckpt'?)"),
    (["compare", "--sort-by=x", "a"], "there is no option --sort-by"),
    (["pairs", "--count="], "count must be an integer, got ''."),
    (["pairs", "--steps=x"], "steps must be an integer or null, got 'x'."),
    (["pairs", "--cont=3"], "there is no option 'cont' (did you mean 'count'?)"),
    (["pairs", "--batch-size="], "batch-size must be an integer, got ''."),
    (["stats", "--data=x", "--batch-size=1.5"], "batch-size must be an integer, got '1.5'."),
    (["compare", "x" * 5000], "x...x"),
    (["stats", "--data=x", "--extractor=Incepton", "--out=x"], "(did you mean 'Inception'?)"),
    (["fit", "--config"], "--config needs a value; give one."),
    (["fit"], "something is missing; give --data, --model."),
    (["fit", "--confg=x"], "there is no option 'confg' (did you mean 'config'?)"),
]


@pytest.mark.parametrize(("words", "expected"), COMMANDS, ids=[" ".join(words)[:60] for words, _ in COMMANDS])
def test_a_bad_command_line_ends_in_a_sentence(
    words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fastgen"])
    assert main(words) == 2
    said = capfd.readouterr().err.strip()
    assert expected in said
    assert_is_sentence(said)


BUILT = [
    (f"{D}.batch_size", -1, "data.init_args.batch_size must be an integer from 1, got -1."),
    (f"{D}.batch_size", 10**400, "data.init_args.batch_size must be an integer from 1, got 1000"),
    (f"{M}.sampler.init_args.times", [-1.0], "model.init_args.sampler.init_args.times[0] must be a finite number from"),
    ("trainer.callbacks", [{"init_args": {}}], "trainer.callbacks[0] is of no class; name it in class_path."),
    ("trainer", None, "trainer must be a mapping of options, got null."),
]


@pytest.mark.parametrize(("key", "value", "expected"), BUILT, ids=[f"{k}={str(v)[:20]}" for k, v, _ in BUILT])
def test_what_a_constructor_refuses_is_told_with_its_key(
    key: str,
    value: Any,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["fastgen"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(changed(key, value)))
    assert main(["fit", "--config", str(file)]) == 2
    (said,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("fastgen: ")]
    assert expected in said
    assert_is_sentence(said)


def test_a_bug_in_a_constructor_is_no_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fastgen"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(CONFIG))

    def bug(self: DistillationData, *args: Any, **kwargs: Any) -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr(DistillationData, "__init__", bug)
    with pytest.raises(AttributeError, match="a bug"):
        main(["fit", "--config", str(file)])
