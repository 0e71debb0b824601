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
from fastgen.metrics.extractors.features import state_digest
from fastgen.metrics.extractors.resize import resize_pillow, resize_shortest, standardise
from fastgen.metrics.extractors.weights import Release, find_weights, read_weights

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
                f"{what}: no weights of '{model}' are published as '{tag}', and the tag says how images are prepared; "
                "set 'tag' to " + (f"one of {', '.join(known)}." if known else "null.")
            )
        trained_so = f"{model}-quickgelu" if published.get("quick_gelu") else model.removesuffix("-quickgelu")
        other = published and bool(published.get("quick_gelu")) != bool(config.get("quick_gelu"))
        if other and trained_so != model and trained_so in open_clip.list_models():
            raise UserError(f"{what}: the weights '{tag}' were trained as '{trained_so}'; set 'model' to that.")
        self.mean: tuple[float, ...] = tuple(published.get("mean") or MEAN)
        self.std: tuple[float, ...] = tuple(published.get("std") or STD)
        self.resize_mode: str = published.get("resize_mode") or "shortest"
        self.filtering: Any = published.get("interpolation") or "bicubic"
        self.release = release or _release(published)
        self.text_repositories = {
            name for key in ("hf_model_name", "hf_tokenizer_name") if (name := config["text_cfg"].get(key))
        }
        self.device = torch.device("cpu")

    @cached_property
    def path(self) -> Path:
        """The file of weights."""
        if self.weights is None and self.release is None:
            raise UserError(f"{self.what}: '{self.model}' has no published weights; give a file as 'weights'.")
        return find_weights(self.weights, self.release or Release(("",)), self.what)

    def fill(self, network: nn.Module) -> None:
        """Fill ``network`` from the file; raises whatever does not fit."""
        from open_clip.factory import load_checkpoint

        load_checkpoint(network, str(self.path), strict=True, weights_only=True)

    @cached_property
    def network(self) -> nn.Module:
        """The network with the weights of the file, frozen, in fp32 and in evaluation mode."""
        import open_clip

        path = self.path
        for repository in self.text_repositories:  # their clients would retry for half a minute each
            try:
                find_weights(None, Release(("config.json", "tokenizer_config.json"), None, repository), self.what)
            except UserError as error:
                raise UserError(
                    f"{self.what}: the text tower of '{self.model}' is '{repository}' of the Hugging Face hub, which "
                    f"is not on this machine and cannot be downloaded; run 'hf download {repository}' where there is "
                    "a network and copy the cache, or take a model whose text tower is open_clip's own."
                ) from error
        network = open_clip.create_model(self.model, pretrained_text=False)  # the checkpoint holds both towers
        try:
            self.fill(network)
        except Exception as error:
            read_weights(path)  # if the file itself is bad, this says so
            raise UserError(
                f"'{path}' does not fit {self.model} of open_clip, the network of {self.what}; give the file of this "
                "model."
            ) from error
        return network.eval().requires_grad_(False).to(self.device)

    @cached_property
    def tokenizer(self) -> Any:
        """Texts to tokens; open_clip ships it for its own text towers."""
        import open_clip

        return open_clip.get_tokenizer(self.model)

    def load(self) -> None:
        """Build the network and the tokenizer now."""
        _ = self.network, self.tokenizer

    def to(self, device: torch.device | str) -> OpenClipTower:
        """Work on ``device``; the network is not built for it."""
        self.device = torch.device(device)
        if "network" in vars(self):
            self.network.to(self.device)
        return self

    @property
    def image_size(self) -> int:
        """Height and width of the network's input."""
        network: Any = self.network
        size = network.visual.image_size
        return int(size if isinstance(size, int) else size[0])

    def pixels(self, images: Tensor) -> Tensor:
        """The network's input for uint8 images (N, 3, H, W), resized as open_clip does it with Pillow."""
        size = self.image_size
        if self.resize_mode == "longest":
            scale = size / max(images.shape[2:])
            height, width = (round(side * scale) for side in images.shape[2:])
            resized = resize_pillow(images, height, width, self.filtering)
            top, left = (size - height) // 2, (size - width) // 2
            resized = functional.pad(resized, (left, size - width - left, top, size - height - top))
        elif self.resize_mode == "squash":
            resized = resize_pillow(images, size, size, self.filtering)
        else:
            resized = resize_shortest(images, size, self.filtering)
        return standardise(resized, self.mean, self.std)

    @torch.no_grad()
    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Embeddings (N, D), fp32, of what :meth:`pixels` gives."""
        network: Any = self.network
        with torch.autocast(self.device.type, enabled=False):
            return network.encode_image(pixels.to(self.device)).float()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, D), fp32, of texts; what is longer than the context is cut off."""
        network: Any = self.network
        with torch.autocast(self.device.type, enabled=False):
            return network.encode_text(self.tokenizer(list(texts)).to(self.device)).float()

    @cached_property
    def digest(self) -> str:
        """sha256 of the weights."""
        return state_digest(self.network)


def _release(published: dict[str, Any]) -> Release | None:
    """Where open_clip's table says that weights lie."""
    repository, _, file = published.get("hf_hub", "").rpartition("/")
    if repository:
        files = (file,) if file else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
        return Release(files, repository=repository)
    url = published.get("url", "")
    return Release((url.rsplit("/")[-1],), url) if url else None
