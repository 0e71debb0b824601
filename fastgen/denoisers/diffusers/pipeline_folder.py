"""PipelineFolder: a pipeline in the diffusers format, on disk or on the hub, and its parts.

Only JSON and safetensors files are read, by classes that our code names: nothing from a folder or the hub is executed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from fastgen.denoisers.diffusers.pipeline_files import (
    check_tokenizer,
    check_weights,
    damaged,
    first_line,
    local_folder,
    missing_library,
    read_json,
    usable_variant,
    variants,
)
from fastgen.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class PipelineFolder:
    """A diffusers pipeline, in a local folder or on the Hugging Face hub, read part by part.

    Args:
        pretrained: Local folder, name of a miniature such as ``emoji-sd``, or hub id such as
            ``stable-diffusion-v1-5/stable-diffusion-v1-5``.
        revision: Branch, tag or commit of the hub repository, if not its main branch.
        variant: Infix of the weight files, e.g. ``fp16``; None is the plain files, or in a local folder the only ones.
    """

    pretrained: str
    revision: str | None = None
    variant: str | None = None

    def __post_init__(self) -> None:
        if self.revision is not None and self.is_local:
            raise UserError(
                f"revision = '{self.revision}' is one of a hub repository, and '{self.pretrained}' is a folder; leave "
                "revision out."
            )

    @cached_property
    def index(self) -> dict[str, Any]:
        """``model_index.json``: the parts with their classes (None for a part left out) and the pipeline's settings."""
        from diffusers import DiffusionPipeline

        if self.is_local:
            read_json(self._path / "model_index.json")
        return self._read(None, lambda: dict(DiffusionPipeline.load_config(self._place, revision=self.revision)))

    def has(self, part: str) -> bool:
        """Whether the pipeline was saved with a part that its family may leave out."""
        return _is_there(self.index.get(part))

    def config(self, part: str, kind: Any) -> dict[str, Any]:
        """The JSON configuration of a part, e.g. ``unet``; ``kind`` is the diffusers class that it describes."""
        if self.is_local and (self._path / part).is_dir():
            read_json(self._path / part / kind.config_name)
        return self._read(part, lambda: kind.load_config(self._place, subfolder=part, revision=self.revision))

    def encoder_config(self, part: str, kind: Any) -> dict[str, Any]:
        """The configuration of a text encoder; ``kind`` is a transformers class of configurations."""
        if self.is_local and (self._path / part).is_dir():
            return read_json(self._path / part / "config.json")
        return self._read(
            part, lambda: kind.get_config_dict(self._place, subfolder=part, revision=self.revision or "main")[0]
        )

    def network(self, part: str, kind: Any) -> Any:
        """The module of the diffusers class ``kind`` that a part's configuration describes, with random weights.

        Raises:
            UserError: If it describes a module of another class, a quantised one, or none.
        """
        config = self.config(part, kind)
        if (name := config.get("_class_name", kind.__name__)) != kind.__name__:
            raise UserError(
                f"'{self.pretrained}/{part}' is a {name}, where this family has a {kind.__name__}; give a pipeline of "
                "this family, or the class of the other."
            )
        self._refuse_quantised(part, config)
        try:
            return kind.from_config(config)
        except (ValueError, TypeError, RuntimeError, AttributeError, KeyError, IndexError) as error:
            raise UserError(
                f"'{self.pretrained}/{part}/config.json' describes no {kind.__name__} ({first_line(error)}); copy or "
                "download it again."
            ) from error

    @cached_property
    def latent_factor(self) -> int:
        """Pixels per latent of an ``AutoencoderKL``."""
        from diffusers import AutoencoderKL

        blocks = self.config("vae", AutoencoderKL).get("block_out_channels")
        if not isinstance(blocks, list):
            raise UserError(f"'{self.pretrained}/vae/config.json' has no list block_out_channels; copy it again.")
        return 2 ** (len(blocks) - 1)

    def model(self, part: str, kind: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A part with its weights: frozen, in eval mode, in ``dtype``.

        Raises:
            UserError: If a file is missing, broken, incomplete or pickled.
        """
        variant = self.variant
        if self.is_local and (self._path / part).is_dir():
            self._refuse_quantised(part, read_json(self._path / part / "config.json"))
            check_weights(self._path / part, variant)
            variant = usable_variant(self._path, part, variant)

        def load() -> tuple[nn.Module, dict[str, Any]]:
            return kind.from_pretrained(
                self._place,
                subfolder=part,
                revision=self.revision,
                variant=variant,
                use_safetensors=True,
                dtype=dtype,  # read as asked for: a larger copy on the way would count at 20 billion parameters
                output_loading_info=True,
            )

        with only_errors():
            model, report = self._read(part, load)
        # Both libraries fill missing tensors with random numbers and only warn.
        if missing := sorted(report["missing_keys"]):
            raise UserError(
                f"'{self.pretrained}/{part}' is incomplete: {len(missing)} tensors are missing, first '{missing[0]}'; "
                "copy or download it again."
            )
        if broken := next((name for name, value in model.state_dict().items() if not value.isfinite().all()), None):
            raise UserError(
                f"'{self.pretrained}/{part}' holds numbers that are not finite, first in '{broken}'; copy or "
                "download it again."
            )
        # Diffusers' own .to() warns about dtypes even where nothing is at stake.
        return nn.Module.to(model, dtype).requires_grad_(False).eval()

    def tokenizer(self, part: str, kind: Any) -> Any:
        """A tokenizer of the transformers class ``kind``.

        Raises:
            UserError: If a file or a library is missing.
        """
        if self.is_local and (self._path / part).is_dir():
            check_tokenizer(self._path / part)
        return self._read(
            part, lambda: kind.from_pretrained(self._place, subfolder=part, revision=self.revision or "main")
        )

    def assemble(self, parts: Mapping[str, Any]) -> Any:
        """The whole diffusers pipeline, with some parts replaced, or left out by ``None``.

        Raises:
            UserError: If a file cannot be read or the pipeline is not one of diffusers' own.
        """
        import diffusers

        # DiffusionPipeline.from_pretrained would drop a replacement that is optional in the pipeline (Wan's network).
        kind = getattr(diffusers, str(self.index.get("_class_name", "")), None)
        if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
            raise UserError(
                f"'{self.pretrained}' is a {self.index.get('_class_name', 'nameless pipeline')}, which diffusers does "
                "not have; give a pipeline of diffusers' own."
            )
        for name, value in self.index.items():
            library = value[0] if isinstance(value, list) and value else None
            if library not in (None, "diffusers", "transformers") and not hasattr(diffusers.pipelines, str(library)):
                raise UserError(
                    f"'{self.pretrained}' takes its '{name}' from '{library}', whose code is not run; give a pipeline "
                    "whose parts are diffusers' and transformers' own."
                )
        left_out = {name: None for name, value in self.index.items() if isinstance(value, list) and not any(value)}
        variant = self.variant
        if self.is_local and variant is None:
            there = set().union(*(variants(folder) for folder in self._path.iterdir() if folder.is_dir()))
            variant = None if None in there or len(there) != 1 else next(iter(there))
        return self._read(
            None,
            lambda: kind.from_pretrained(
                self._place, revision=self.revision, variant=variant, use_safetensors=True, **{**left_out, **parts}
            ),
        )

    @property
    def is_local(self) -> bool:
        """Whether it is a folder here."""
        return self._path.is_dir()

    @property
    def _path(self) -> Path:
        return local_folder(self.pretrained)

    @property
    def _place(self) -> str:
        return str(self._path) if self.is_local else self.pretrained

    def _read(self, part: str | None, read: Callable[[], T]) -> T:
        from safetensors import SafetensorError

        folder = Path(self._place)
        if folder.is_dir() and part is not None and not (folder / part).is_dir():
            raise UserError(self._why_missing(part))
        if not folder.is_dir() and (folder.is_absolute() or folder.parts[:1] in ((), ("..",), ("~",))):
            raise UserError(f"'{self.pretrained}' is not a folder; give a diffusers pipeline folder or a hub id.")
        name = "model_index.json" if part is None else part
        try:
            return read()
        except (OSError, ValueError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
            if library := missing_library(error):
                raise UserError(
                    f"'{self.pretrained}/{name}' needs the library {library}, which is not installed; install it with "
                    f"'pip install {library}'."
                ) from error
            reason = first_line(error)
            if folder.is_dir():
                if part is not None:
                    for file, why in damaged(folder / part):
                        raise UserError(
                            f"'{file}' is damaged or cut off ({why}); copy or download it again."
                        ) from error
                    if re.search(r"expected shape|mismatch", str(error)):
                        raise UserError(
                            f"The weights in '{self.pretrained}/{part}' have other shapes than its config.json says "
                            f"({reason.partition('. ')[0]}); give files that belong together."
                        ) from error
                raise UserError(
                    f"'{self.pretrained}/{name}' cannot be read ({reason}); give a folder that save_pretrained of a "
                    "diffusers pipeline of this family wrote."
                ) from error
            hint = (
                "; its weights may exist as a variant only, such as variant: fp16" if "no file named" in reason else ""
            )
            raise UserError(
                f"'{self.pretrained}' is not a folder and its '{name}' cannot be read from the hub ({reason}{hint}); "
                "check the spelling, the connection and HF_TOKEN, or give a local pipeline folder."
            ) from error

    def _why_missing(self, part: str) -> str:
        """Why a local pipeline has no folder ``part``."""
        file = self._path / "model_index.json"
        if not file.is_file():
            return (
                f"'{self.pretrained}' has no folder '{part}' and no model_index.json; give a folder that "
                "save_pretrained of a diffusers pipeline of this family wrote."
            )
        index = read_json(file)
        if _is_there(index.get(part)):
            return f"'{self.pretrained}' has no folder '{part}', which its model_index.json names; copy it too."
        name = index.get("_class_name", "pipeline")
        if part in index:
            return f"'{self.pretrained}' was saved without '{part}', which is needed here; give a {name} that has it."
        return f"'{self.pretrained}' is a {name}, which has no folder '{part}'; give a pipeline of this family."

    def _refuse_quantised(self, part: str, config: Mapping[str, Any]) -> None:
        if (found := config.get("quantization_config")) is not None:
            method = found.get("quant_method", "unknown method") if isinstance(found, dict) else "unknown method"
            raise UserError(
                f"'{self.pretrained}/{part}' is quantised ({method}), which is not supported; give the pipeline with "
                "plain weights that it was made from."
            )


def _is_there(entry: Any) -> bool:
    """Whether an entry of ``model_index.json`` names a class."""
    return isinstance(entry, list | tuple) and bool(entry) and entry[0] is not None


@contextmanager
def only_errors() -> Iterator[None]:
    """Diffusers and transformers print tables and warnings about what our sentences say."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = [(module, module.get_verbosity()) for module in (diffusers_logging, transformers_logging)]
    for module, _ in before:
        module.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        for module, level in before:
            module.set_verbosity(level)
