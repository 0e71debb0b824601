"""A network of open_clip with the preprocessing it was trained with: images and texts to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgen.errors import UserError
from fastgen.metrics.features import state_digest
from fastgen.metrics.resize import resize_longest, resize_pillow, resize_shortest, standardise
from fastgen.metrics.weights import Release, find_weights, read_weights

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels that OpenAI's CLIP was trained on."""


class OpenClipTower:
    """Both towers of an open_clip model; a plain object, so that no metric has its weights in a state dict.

    Args:
        model: open_clip's name, e.g. ``ViT-g-14``.
        weights: ``.safetensors`` file or PyTorch checkpoint, bare or under ``state_dict``, also with the prefix
            ``module.``; read as plain tensors. ``None`` for the published file.
        tag: The published weights of that name, e.g. ``laion2b_s12b_b42k``: what is downloaded without ``weights``,
            and whose means and resize are used in any case. ``None`` only for a model without published weights.
        what: Who needs the weights.
        release: A published file other than open_clip's own.

    Raises:
        UserError: If open_clip knows no such model or tag, or the tag was trained with another activation.
    """

    def __init__(
        self, model: str, weights: str | None, tag: str | None, what: str, release: Release | None = None
    ) -> None:
        import open_clip
        from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

        config = open_clip.get_model_config(model) if not model.startswith(("hf-hub:", "local-dir:")) else None
        if config is None:
            raise UserError(f"{what}: open_clip has no model '{model}'; take a name of open_clip.list_models().")
        self.model = model
        self.weights = weights
        self.what = what
        self.embedding_size = int(config["embed_dim"])
        published = get_pretrained_cfg(model, tag) if tag else {}
        known = list_pretrained_tags_by_model(model)
        if (tag or known) and not published:
            raise UserError(
                f"{what}: '{model}' has no published weights '{tag}', whose preprocessing would be taken; set 'tag' to "
                + (f"one of {', '.join(known)}." if known else "null.")
            )
        if bool(published.get("quick_gelu", False)) != bool(config.get("quick_gelu", False)) and published:
            wanted = f"{model}-quickgelu" if published.get("quick_gelu") else model.removesuffix("-quickgelu")
            raise UserError(f"{what}: the weights '{tag}' were trained as '{wanted}', not '{model}'; set 'model' so.")
        self.mean: tuple[float, ...] = tuple(published.get("mean") or MEAN)
        self.std: tuple[float, ...] = tuple(published.get("std") or STD)
        self.resize_mode: str = published.get("resize_mode") or "shortest"
        self.filtering: Any = published.get("interpolation") or "bicubic"
        repository, _, file = published.get("hf_hub", "").rpartition("/")
        files = (file,) if file else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
        url = None if repository else (published.get("url") or f"the authors of {model}")
        self.release = release or Release(files if url is None else (str(url).rsplit("/")[-1],), url, repository)
        self.device = torch.device("cpu")

    @cached_property
    def path(self) -> Path:
        """The file of weights."""
        return find_weights(self.weights, self.release, self.what)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the file, under open_clip's names."""
        return read_weights(self.path)

    @cached_property
    def network(self) -> nn.Module:
        """The network with the weights of the file, frozen, in fp32 and in evaluation mode."""
        import open_clip
        from open_clip.factory import load_checkpoint

        tensors = self.tensors()  # says what is wrong with the file in one sentence
        try:
            # Nothing may be fetched for a tower on the way: the checkpoint holds both of them whole.
            network = open_clip.create_model(self.model, load_weights=False, pretrained_text=False)
        except OSError as error:
            raise UserError(
                f"{self.what}: the text tower of '{self.model}' needs files of its own from the Hugging Face hub, which "
                "are not on this machine; download them there first, or take a model whose text tower is open_clip's."
            ) from error
        network = network.eval().requires_grad_(False)
        try:
            with _as_file(tensors) as file:
                load_checkpoint(network, file)
        except (RuntimeError, KeyError) as error:
            raise UserError(
                f"'{self.path}' does not fit {self.model} of open_clip, the network of {self.what}; give the file of "
                "this model."
            ) from error
        return network.to(self.device)
