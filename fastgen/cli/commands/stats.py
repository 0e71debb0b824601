"""``fastgen stats``: what real images look like to an extractor, as a file to compare samples with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from fastgen import __version__, checks
from fastgen.cli.commands.loading import check_device
from fastgen.cli.commands.parser import whole
from fastgen.configuration.constructors import telling
from fastgen.configuration.diagnosis import diagnosing
from fastgen.configuration.parsing import ClassesOnly
from fastgen.data import DistillationData, ImageFolder
from fastgen.data.pixels import SUFFIXES, open_picture, pictures_below
from fastgen.data.sources import BatchSource
from fastgen.errors import ParserError, UserError
from fastgen.messages import one_sentence
from fastgen.metrics import FeatureExtractor
from fastgen.metrics.samples.frechet import FrechetSums
from fastgen.metrics.samples.reference import write_reference
from fastgen.pictures.pixels import to_uint8
from fastgen.randomness import generator
from fastgen.refusals import refuse_unwritable
from fastgen.sizes import height_and_width
from fastgen.storage.documents import read_yaml
from fastgen.storage.files import resolve

PIECES = 8
"""Parts of a batch that are read at the same time."""


class _Parser(ClassesOnly, ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ParserError(message) from ex


def parser() -> ArgumentParser:
    """The options."""
    options = _Parser("fastgen stats", description=__doc__)
    options.add_argument("--data", required=True, type=str, help="folder of images, or a config with a 'data:' section")
    options.add_subclass_arguments(FeatureExtractor, "extractor", required=True)
    options.add_argument("--out", required=True, type=str, help="the .safetensors file to write")
    options.add_argument("--features", action="store_true", help="keep the features of every image, for all metrics")
    options.add_argument(
        "--resolution",
        type=int | None,
        default=None,
        help="scale the shorter side of a folder's images to it and crop the centre square; default as they are",
    )
    options.add_argument("--height", type=int | None, default=None, help="with --width: scale and crop to this shape")
    options.add_argument("--width", type=int | None, default=None, help="see --height")
    options.add_argument("--color", type=Literal["rgb", "grey"], default="rgb", help="how to read a folder's images")
    options.add_argument(
        "--split", type=Literal["train", "validation", "test"], default="train", help="which samples of a config's data"
    )
    options.add_argument("--count", type=int | None, default=None, help="take so many, chosen at random; default all")
    options.add_argument("--batch_size", "--batch-size", type=int, default=256)
    options.add_argument("--num_workers", "--num-workers", type=int, default=8, help="threads that read files")
    options.add_argument("--device", type=str, default="cuda" if torch.cuda.is_available() else "cpu")
    return options


def folder_of_images(
    root: Path, size: tuple[int, int] | None, color: Literal["rgb", "grey"]
) -> tuple[ImageFolder, str]:
    """A folder as a data module, with images of ``size`` (height, width) or as stored; and how its pixels are made."""
    if size is not None:
        height, width = size
        data = ImageFolder(str(root), height=height, width=width, color=color, held_out_fraction=0.0)
        scaled = f"shorter side to {height}" if height == width else f"scaled to cover {width}x{height}"
        return data, f"{color}, {scaled} by Lanczos, centre crop"
    first = next(iter(pictures_below(root)), None)
    if first is None:
        raise UserError(f"'{root}' holds no image ({', '.join(sorted(SUFFIXES))}); check --data.")
    width, height = open_picture(first).size
    data = ImageFolder(str(root), height=height, width=width, color=color, resize=False, held_out_fraction=0.0)
    data.reader = replace(data.reader, mend="give --resolution, or --height and --width")
    return data, f"{color}, {width}x{height} as stored"


def data_of_config(path: Path) -> DistillationData:
    """The data module that a config names."""
    config = read_yaml(path)
    if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
        raise UserError(f"'{path}' has no 'data:' section; give a folder of images or a config with one.")
    options = _Parser("fastgen stats")
    options.add_subclass_arguments(DistillationData, "data")
    try:
        return options.instantiate_classes(options.parse_object({"data": config["data"]})).data
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"The data of '{path}' cannot be built: {one_sentence(str(error))}") from error


def batches(source: BatchSource, indices: Sequence[int], batch_size: int, workers: int) -> Iterator[dict[str, Any]]:
    """Parts of batches ``indices`` in order; the parts of a batch are read at the same time."""
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        step = max(1, batch_size // PIECES)
        for start in range(0, len(indices), batch_size):
            rows = indices[start : start + batch_size]
            pieces = [rows[i : i + step] for i in range(0, len(rows), step)]
            yield joined(list(pool.map(source.batch, pieces)))


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Batches as one; of the conditions only the label is kept."""
    batch: dict[str, Any] = {"x0": torch.cat([part["x0"] for part in parts])}
    if "label" in parts[0]["condition"]:
        batch["label"] = torch.cat([part["condition"]["label"] for part in parts])
    return batch


def files_digest(data: DistillationData) -> str | None:
    """sha256 of the sorted relative names and sizes of a folder's files; ``None`` for other data."""
    if not isinstance(data, ImageFolder):
        return None
    root = resolve(data.root)
    lines = (f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n" for path in pictures_below(root))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def stats(words: Sequence[str]) -> None:
    """Read images, extract features, write sums.

    Raises:
        UserError: On bad options, unreadable images or an extractor that does not fit.
    """
    options = parser()
    with diagnosing(words, options):
        arguments = options.parse_args(list(words))
    if Path(arguments.out).suffix != ".safetensors":
        raise UserError(f"--out {arguments.out} must end in .safetensors; mend its name.")
    whole(batch_size=arguments.batch_size, num_workers=arguments.num_workers)
    asked = {name: getattr(arguments, name) for name in ("resolution", "height", "width")}
    whole(1, checks.LARGEST_SIDE, **asked)
    resized = any(value is not None for value in asked.values())
    size = height_and_width("fastgen stats", **asked) if resized else None
    whole(2, count=arguments.count)
    check_device(arguments.device)
    refuse_unwritable(arguments.out)
    place = resolve(arguments.data)
    data: DistillationData
    if place.is_dir():
        data, pixels = folder_of_images(place, size, arguments.color)
    else:
        if resized:
            option = next(name for name, value in asked.items() if value is not None)
            raise UserError(f"--{option} is for folders; set the size of a config's images in its 'data:' section.")
        data, pixels = data_of_config(place), f"as in {place.name}"
    source = data.sources[("train", "validation", "test").index(arguments.split)]
    count = arguments.count if source.size is None else min(source.size, arguments.count or source.size)
    if count is None or count < 2:
        raise UserError(f"There are {count or 'endlessly many'} images in --data; give --count, or other data.")
    if "x0" not in source.batch([0]) or data.sample_kind != "image":
        raise UserError(f"{type(data).__name__} has no images; give a folder of images or a config with images.")
    chosen = list(range(count))
    if source.size is not None and count < source.size:
        order = torch.randperm(source.size, generator=generator(0, "reference"))
        chosen = order[:count].sort().values.tolist()
    try:
        with telling(options, arguments):
            extractor = options.instantiate_classes(arguments).extractor
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"The extractor cannot be built: {one_sentence(str(error))}") from error
    extractor.to(arguments.device)
    sums = FrechetSums(extractor.num_features)
    sums.to(arguments.device)
    pixels_digest = hashlib.sha256()
    kept: list[Tensor] = []
    labels: list[Tensor] = []
    from fastgen.callbacks.bars import bar as progress

    with progress(total=count, desc="features", unit="image") as bar:
        for batch in batches(source, chosen, arguments.batch_size, arguments.num_workers):
            images = to_uint8(batch["x0"])
            pixels_digest.update(images.contiguous().numpy().tobytes())
            features = extractor(images)
            sums.update(features)
            if arguments.features:
                kept.append(features.cpu())
                if "label" in batch:
                    labels.append(batch["label"])
            bar.update(len(images))
    description = {
        "fastgen": __version__,
        "preprocessing": extractor.preprocessing,
        "pixels": pixels,
        "data": place.name,
        "split": arguments.split,
        "files_sha256": files_digest(data),
        "pixels_sha256": pixels_digest.hexdigest(),
    }
    path = write_reference(
        arguments.out,
        sums.total,
        sums.outer,
        count,
        extractor.fingerprint(),
        torch.cat(kept) if kept else None,
        torch.cat(labels) if labels else None,
        description,
    )
    print(f"{count} images, {extractor.num_features} features of {extractor.fingerprint()}: {path}")
