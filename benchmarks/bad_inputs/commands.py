"""Command lines that nobody means, and places where nothing can be written."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.bad_inputs.inputs import BadInput, Expected

SAMPLE = ("sample", "--ckpt", "last.ckpt")
PAIRS = ("pairs", "--ckpt", "last.ckpt", "--role", "average", "--count", "8")
EXPORT = ("export", "--ckpt", "last.ckpt", "--out", "new")
STATS = (
    "stats",
    "--data",
    "pictures",
    "--color",
    "grey",
    "--extractor",
    "DigitsClassifier",
    "--out",
    "new.safetensors",
)
REPORT = ("report", "run", "--no-samples")
SCORES = ("scores", "run", "vqascore=vqascore.json")
FIT = ("fit", "--config", "fit.yaml")
GOOD = {"sample": SAMPLE, "pairs": PAIRS, "stats": STATS, "report": REPORT, "scores": SCORES, "fit": FIT}

HUGE = "1" + "0" * 30
NUMBERS = ("-1", "0", HUGE, "1.5", "nan", "x", "")
"""What is no count."""

COUNTS = {
    "sample": ("steps", "columns", "batch-size"),
    "pairs": ("count", "steps", "shard-size", "batch-size", "threads"),
    "export": ("steps",),
    "stats": ("resolution", "height", "width", "count", "batch_size", "num_workers"),
    "report": ("steps", "batch-size"),
    "scores": ("nfe",),
    "fit": ("threads", "trainer.max_steps", "trainer.devices", "trainer.log_every_n_steps", "data.batch_size"),
}
LISTS = ("", "x", "5-1", "-3", "1,,2", "1-2-3", "0-99999999999", HUGE, "1.5", "1e3", "\u00b2", "3,3", "0x1", "1;2", "-")
"""What is no list of seeds."""

OUTS = (
    "file",
    "file/below",
    "folder.png",
    "folder.safetensors",
    "/proc/new",
    "/proc/new.png",
    "/proc/new.safetensors",
    "/dev/null/new.png",
    "loop/new.png",
    "x" * 300 + ".png",
    "new.docx",
)
"""Places where nothing can be written, or nothing of that kind."""

DEVICES = ("meta", "cuda:99", "toaster", "", "cpu:x", "tpu", "cuda:-1")
ROLES = ("nobody", "", "critic", "teacher;", "__class__")
FREE = {"free": "either"}


def on(
    stage: Path, group: str, words: Sequence[str], expected: Expected = "refuse", size: int | None = None
) -> BadInput:
    """A command in a copy of the good files, in which no file may grow beyond ``size`` bytes."""

    def prepare(folder: Path) -> Sequence[str]:
        shutil.copytree(stage, folder, dirs_exist_ok=True)
        for name in ("folder.png", "folder.safetensors"):
            (folder / name).mkdir()
        (folder / "file").write_text("x")
        (folder / "loop").symlink_to("loop")
        if size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return words

    shown = " ".join(words) if len(" ".join(words)) < 120 else f"{' '.join(words)[:120]}..."
    return BadInput(f"commands: {group}", shown + (f" ({size} bytes)" if size is not None else ""), prepare, expected)


def counts(stage: Path) -> Iterator[BadInput]:
    """Options that count."""
    for command, options in COUNTS.items():
        words = EXPORT if command == "export" else GOOD[command]
        for option in options:
            for number in NUMBERS:
                large = number == HUGE and option in ("columns", "batch-size", "batch_size", "shard-size")
                plain = (option, number) in (("trainer.log_every_n_steps", "0"), ("trainer.devices", "-1"))
                whole_set = option == "count" and command == "stats" and number == HUGE
                expected: Expected = "either" if large or plain or whole_set else "refuse"
                yield on(stage, command, (*words, f"--{option}={number}"), expected)


def lists(stage: Path) -> Iterator[BadInput]:
    """Lists of seeds and labels."""
    for text in LISTS:
        same: Expected = "either" if text == "3,3" else "refuse"
        yield on(stage, "sample", (*SAMPLE, f"--seeds={text}"), same)
        yield on(stage, "sample", (*SAMPLE, "--seeds=0-3", f"--labels={text}"), "either" if text == "" else same)
        yield on(stage, "pairs", (*PAIRS, f"--labels={text}"), "either" if text == "" else same)
        yield on(stage, "report", (*REPORT, f"--seeds={text}"), same)
    yield on(stage, "sample", (*SAMPLE, "--seeds=0-3", "--labels=3,10"))
    for text in ("-1", HUGE, "x", "1.5", ""):
        yield on(stage, "pairs", (*PAIRS, f"--first-seed={text}"))
        yield on(
            stage, "sample", (*SAMPLE, "--layout=plain", "--prompts=prompts.txt", "--out=new", f"--first-seed={text}")
        )
        yield on(
            stage, "sample", (*SAMPLE, "--layout=plain", "--prompts=prompts.txt", "--out=new", f"--per-prompt={text}")
        )
        yield on(stage, "fit", (*FIT, f"--seed_everything={text}"), "either" if text == "" else "refuse")
    for text in ("", "1", "2/2", "-1/2", "0/0", "a/b", "1/2/3", "0/" + HUGE, "0.5/2"):
        yield on(stage, "pairs", (*PAIRS, f"--part={text}"))


def places(stage: Path) -> Iterator[BadInput]:
    """Places to write to, devices and roles."""
    bare = {"sample": SAMPLE, "pairs": PAIRS, "export": EXPORT[:-2], "stats": STATS[:-2], "report": REPORT}
    for command, words in bare.items():
        for out in OUTS:
            folder = command in ("pairs", "export", "report")
            fine = folder and out in ("folder.png", "folder.safetensors", "new.docx", "loop/new.png")
            unlimited: Expected = "either" if fine and not out.startswith("loop") else "refuse"
            yield on(stage, command, (*words, f"--out={out}"), unlimited)
        for device in DEVICES if command not in ("export", "report") else ():
            full = STATS if command == "stats" else words
            yield on(stage, command, (*full, f"--device={device}"))
    for role in ROLES:
        yield on(stage, "sample", (*SAMPLE, f"--role={role}"))
        yield on(stage, "export", (*EXPORT, f"--role={role}"))
        yield on(stage, "pairs", (*PAIRS[:3], f"--role={role}", "--count=8"), "either" if role == "" else "refuse")
    for command, words in (("sample", SAMPLE), ("pairs", PAIRS), ("fit", FIT)):
        for size in (0, 100, 5000):
            yield on(stage, f"{command}, file-size limit", words, "refuse", size)
    for command, words in (("stats", STATS), ("report", REPORT), ("scores", (*SCORES, "--nfe=1"))):
        for size in (0, 100):
            yield on(stage, f"{command}, file-size limit", words, "refuse", size)


def words_alone(stage: Path) -> Iterator[BadInput]:
    """Command lines that miss, repeat or invent something."""
    for words in (
        ("nothing",),
        ("fit",),
        ("sample",),
        ("stats",),
        ("pairs",),
        ("export",),
        ("compare",),
        ("report",),
        ("scores",),
        ("scores", "run"),
        ("scores", "run", "x"),
        ("scores", "run", "nobody=vqascore.json"),
        ("scores", "run", "=vqascore.json"),
        ("scores", "run", "vqascore="),
        ("scores", "run", "vqascore=run", "--nfe=1"),
        (*SCORES, "--updates=-1"),
        (*SCORES, "--updates=x"),
        (*SCORES, "--samples=nowhere"),
        (*SCORES, "--samples=file"),
        (*SCORES, "--role=nobody"),
        ("compare", "run", "run"),
        ("compare", "nowhere"),
        ("compare", "file"),
        ("compare", "pictures"),
        ("compare", "loop"),
        ("compare", ""),
        ("compare", "x" * 5000),
        ("report", "run", "run"),
        ("report", "nowhere"),
        (*REPORT, "--prompts=nowhere"),
        (*REPORT, "--prompts=pictures"),
        ("sample", "--ckpt", "pictures"),
        ("sample", "--ckpt", "prompts.txt"),
        ("sample", "--ckpt", ""),
        (*SAMPLE, "--prompt", "a cat"),
        (*SAMPLE, "--prompts", "prompts.txt"),
        (*SAMPLE, "--layout", "plain"),
        (*SAMPLE, "--layout", "nothing"),
        (*SAMPLE, "--layout", "plain", "--prompts", "prompts.txt", "--out", "a.png"),
        (*SAMPLE, "--layout", "dpg", "--prompts", "prompts.txt", "--out", "new"),
        (*SAMPLE, "--nothing", "3"),
        (*SAMPLE, "stray"),
        (*PAIRS, "--config", "fit.yaml"),
        (*PAIRS, "--prompts", "prompts.txt"),
        (*PAIRS, "--nothing", "3"),
        ("pairs", "--config", "fit.yaml", "--role", "average"),
        ("pairs", "--config", "prompts.txt"),
        ("pairs", "--config", "last.ckpt"),
        ("pairs", "--config", "nowhere.yaml"),
        ("export", "--ckpt", "last.ckpt", "--out", "new"),
        ("export", "--ckpt", "last.ckpt", "--out", "run"),
        (*EXPORT, "--format", "nothing"),
        (*EXPORT, "--format", "lora"),
        ("stats", "--data", "nowhere", *STATS[5:]),
        ("stats", "--data", "run", *STATS[5:]),
        ("stats", "--data", "prompts.txt", *STATS[5:]),
        ("stats", "--data", "with_prompts.yaml", *STATS[5:]),
        ("stats", "--data", "last.ckpt", *STATS[5:]),
        (*STATS[:5], "--extractor", "Nothing", *STATS[7:]),
        (*STATS[:5], "--extractor", "os.system", *STATS[7:]),
        (*STATS[:7], "--out", "new.txt"),
        (*STATS, "--color", "blue"),
        (*STATS, "--split", "train2"),
        (*STATS, "--split", "held_out"),
        ("fit", "--config"),
        ("fit", "--config", "nowhere.yaml"),
        ("fit", "--config", "last.ckpt"),
        ("fit", "--config", "pictures/0.png"),
        ("fit", "--config", "pictures"),
        ("fit", "--config", "loop"),
        ("fit", "--config", "prompts.txt"),
        ("fit", "--config", "prompts.csv"),
        ("fit", "--config", "reference.npz"),
        ("fit", "--config", ""),
        (*FIT, "--config", "nowhere.yaml"),
        (*FIT, "--model.nothing", "3"),
        (*FIT, "--nothing", "3"),
        (*FIT, "--model", "Nothing"),
        (*FIT, "--data", "Nothing"),
        (*FIT, "--ckpt_path", "nowhere.ckpt"),
        (*FIT, "--ckpt_path", "pictures"),
        (*FIT, "--ckpt_path", "reference.npz"),
        (*FIT, "--ckpt_path", "weights.safetensors"),
        (*FIT, "--trainer.accelerator", "toaster"),
        (*FIT, "--trainer.precision", "13"),
        (*FIT, "--trainer.strategy", "nothing"),
        (*FIT, "--trainer.max_time", "soon"),
        (*FIT, "stray"),
    ):
        yield on(stage, words[0], words)


def inputs(stage: Path) -> list[BadInput]:
    """All of them, on the good files in ``stage`` (see ``make_stage``)."""
    makers = (counts, lists, places, words_alone)
    return [given for make in makers for given in make(stage)]
