"""The same seeds from the teacher and from each student, made once and kept in the report's folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen.errors import UserError
from fastgen.report.run import Run, part
from fastgen.storage.files import write_json
from fastgen.storage.fingerprints import checkpoint_fingerprint

if TYPE_CHECKING:
    from torch import Tensor

    from fastgen.methods import Distiller

FOLDER, INDEX = "samples", "index.json"


@dataclass(frozen=True)
class Block:
    """Samples of one role with one number of network calls.

    Attributes:
        role: ``teacher``, ``average``, ...
        nfe: Network calls per sample.
        seeds: One per sample.
        conditions: What each sample was asked to be, for people; empty texts if nothing.
        files: One picture per sample, relative to the report; empty for points.
        points: (x, y) per sample, the first two coordinates; empty for images.
        width: Pixels of a picture from left to right; 0 for points.
        digest: Equal for equal samples.
    """

    role: str
    nfe: int
    seeds: tuple[int, ...]
    conditions: tuple[str, ...]
    files: tuple[str, ...]
    points: tuple[tuple[float, float], ...]
    width: int
    digest: str


@dataclass(frozen=True)
class Wish:
    """Which samples are wanted.

    Attributes:
        seeds: The seeds; ``None`` for 16 images or 512 points.
        steps: Network calls of the student; empty for those that the run measured (or was trained with).
        role: ``average``, ``student`` or an EMA's name.
        prompts: File with prompts for text-to-image checkpoints; ``None`` takes the run's own.
        device: Where to sample; ``None`` for a GPU if there is one.
        batch_size: Samples per network call.
        trust: Modules whose classes a checkpoint may name, beside those of fastgen.
    """

    seeds: tuple[int, ...] | None = None
    steps: tuple[int, ...] = ()
    role: str = "average"
    prompts: str | None = None
    device: str | None = None
    batch_size: int = 64
    trust: tuple[str, ...] = ()


def samples_of(run: Run, out: Path, wish: Wish) -> list[Block]:
    """The run's samples, the teacher's first, from the cache in ``out`` or made now.

    Raises:
        UserError: If the run has no checkpoint, or it cannot be sampled from.
    """
    if run.checkpoint is None:
        raise UserError("there is no checkpoint.")
    steps = wish.steps or measured_steps(run, wish.role)
    key = {
        "checkpoint": checkpoint_fingerprint(run.checkpoint),
        "seeds": wish.seeds,
        "steps": steps,
        "role": wish.role,
        "prompts": hashlib.sha256(Path(wish.prompts).read_bytes()).hexdigest() if wish.prompts else None,
    }
    folder = Path(FOLDER) / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    if (out / folder / INDEX).exists():
        return read_index(out / folder / INDEX)
    blocks = make(run, out, folder, wish, steps)
    write_json(out / folder / INDEX, [asdict(block) for block in blocks])
    return blocks


def read_index(path: Path) -> list[Block]:
    """The blocks of a finished cache."""

    def tuples(value: Any) -> Any:
        return tuple(tuples(part) for part in value) if isinstance(value, list) else value

    entries = json.loads(path.read_text(encoding="utf-8"))
    return [Block(**{key: tuples(value) for key, value in entry.items()}) for entry in entries]


def measured_steps(run: Run, role: str) -> tuple[int, ...]:
    """The numbers of calls that ``Evaluate`` was asked for; empty if only that of training."""
    return tuple(sorted({m.steps for m in run.measurements if m.role == role and m.steps is not None}))


def make(run: Run, out: Path, folder: Path, wish: Wish, steps: Sequence[int]) -> list[Block]:
    """Sample from the run's checkpoint."""
    import torch

    from fastgen.checkpoints.reading import method_from_checkpoint

    assert run.checkpoint is not None
    try:
        method = method_from_checkpoint(run.checkpoint, with_teacher=True, trust=wish.trust)
    except UserError:
        method = method_from_checkpoint(
            run.checkpoint, trust=wish.trust
        )  # the teacher's own weights may not be at hand
    device = wish.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        method.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device} cannot be used ({str(error).splitlines()[0]}).") from error
    images = len(method.student.sample_shape) == 3
    seeds = wish.seeds or tuple(range(16 if images else 512))
    condition, words = conditions(method, run, wish, len(seeds))
    roles: list[tuple[str, int | None]] = [("teacher", None)] if method.teacher is not None else []
    roles += [(wish.role, k) for k in steps] or [(wish.role, None)]
    blocks = []
    for role, k in roles:
        nfe = method.evaluations(role, k)
        samples = draw(method, seeds, condition, k, role, wish.batch_size, f"{run.name}: {role}, {nfe} calls")
        blocks.append(keep(samples, out, folder / f"{role}-{nfe}", role, nfe, seeds, words))
    return blocks


def draw(
    method: Distiller,
    seeds: Sequence[int],
    condition: dict[str, Any],
    steps: int | None,
    role: str,
    batch_size: int,
    description: str,
) -> Tensor:
    """Samples (N, ...) on the CPU."""
    import torch

    from fastgen.callbacks.bars import bar as progress

    rows = [slice(i, i + batch_size) for i in range(0, len(seeds), batch_size)]
    parts = [
        method.sample(seeds[row], {name: value[row] for name, value in condition.items()}, steps, role).cpu()
        for row in progress(rows, desc=description, disable=len(rows) == 1)
    ]
    return torch.cat(parts)


def conditions(method: Distiller, run: Run, wish: Wish, count: int) -> tuple[dict[str, Any], list[str]]:
    """One condition per sample, as networks and as people read it: labels or prompts in turn.

    Raises:
        UserError: If prompts are needed and none are known.
    """
    import torch

    student = method.student
    if student.takes_prompts:
        from fastgen.data.prompts import read_prompts

        data = part(part(run.config, "data"), "init_args")
        source = wish.prompts or data.get("held_out") or data.get("path")
        if not isinstance(source, str):
            raise UserError("the checkpoint makes pictures from text; give --prompts FILE.")
        prompts = read_prompts(source)
        texts = [prompts[i % len(prompts)] for i in range(count)]
        return {"prompt": texts}, texts
    if not student.num_classes:
        return {}, [""] * count
    labels = [i % student.num_classes for i in range(count)]
    return {"label": torch.tensor(labels)}, [f"label {label}" for label in labels]


def keep(
    samples: Tensor, out: Path, folder: Path, role: str, nfe: int, seeds: Sequence[int], words: Sequence[str]
) -> Block:
    """Write pictures, or note points."""
    from fastgen.pictures.grids import pixels, save_samples
    from fastgen.pictures.videos import strips

    files: tuple[str, ...] = ()
    points: tuple[tuple[float, float], ...] = ()
    if samples.ndim > 2:
        video = samples.ndim == 5
        save_samples(samples, out / folder, names=seeds)
        files = tuple(f"{folder.as_posix()}/{seed:06d}.{'webp' if video else 'png'}" for seed in seeds)
        content = pixels(strips(samples) if video else samples).numpy().tobytes()
    else:
        flat = samples.flatten(1)
        flat = flat[:, :2] if flat.shape[1] > 1 else flat.repeat(1, 2).mul(flat.new_tensor([1.0, 0.0]))
        points = tuple((round(x, 4), round(y, 4)) for x, y in flat.tolist())
        content = repr(points).encode()
    width = samples.shape[-1] if files else 0
    return Block(role, nfe, tuple(seeds), tuple(words), files, points, width, hashlib.sha256(content).hexdigest()[:16])
