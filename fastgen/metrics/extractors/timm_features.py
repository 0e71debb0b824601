"""DINOv2 and any other backbone of timm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastgen import checks
from fastgen.errors import UserError
from fastgen.metrics.extractors.features import FeatureExtractor
from fastgen.metrics.extractors.resize import resize_bicubic, resize_shortest, resize_squash, standardise
from fastgen.metrics.extractors.weights import Release, find_weights, read_weights

TimmResize = Literal["bicubic", "squash", "shortest"]
RESIZES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "bicubic": resize_bicubic,
    "squash": resize_squash,
    "shortest": resize_shortest,
}


class TimmFeatures(FeatureExtractor):
    """The pooled features of a timm backbone, standardised as that backbone was trained.

    Args:
        model: timm's name, e.g. ``convnext_base.fb_in22k``.
        weights: ``.pth`` or ``.safetensors`` file (read as plain tensors); ``None`` to take it from the cache of the
            Hugging Face hub or download it.
        size: Height and width of the input; default as timm lists it.
        resize: ``bicubic`` (floating point, antialiased, not rounded), ``squash`` (as Pillow, 8 bits), or ``shortest``
            (as Pillow, then the central square).
    """

    def __init__(
        self, model: str, weights: str | None = None, size: int | None = None, resize: TimmResize = "bicubic"
    ) -> None:
        checks.whole(self, 1, checks.LARGEST_SIDE, size=size)
        super().__init__()
        import timm

        if resize not in RESIZES:
            raise UserError(f"{type(self).__name__} has no resize '{resize}'; choose one of {', '.join(RESIZES)}.")
        config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
        if config is None:
            raise UserError(f"timm has no model '{model}'; take a name that timm.list_models() knows.")
        self.model = model
        self.weights = weights
        self.resize = resize
        self.config: Any = config
        self.size = size or config.input_size[-1]
        self.name = f"timm_{model}"
        self.preprocessing = f"{resize}-{self.size}"
        self.num_features = self._count()

    def _create(self, **kwargs: Any) -> nn.Module:
        import timm

        if self.size != self.config.input_size[-1] and self.config.fixed_input_size:
            kwargs["img_size"] = self.size  # a transformer is built for its size; timm resamples the positions
        return timm.create_model(self.model, num_classes=0, **kwargs)

    def _count(self) -> int:
        """D, of a network without storage."""
        with torch.device("meta"):
            network: Any = self._create(pretrained=False)
        return int(network.num_features)

    def build(self) -> nn.Module:
        """The backbone with the weights of the file."""
        what = f"{type(self).__name__}('{self.model}')"
        release = Release(
            files=("model.safetensors", "pytorch_model.bin"),
            url=None if self.config.hf_hub_id else self.config.url,
            repository=self.config.hf_hub_id,
        )
        path = find_weights(self.weights, release, what)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            random = self._create(pretrained=False)
            torch.manual_seed(0)
            try:
                network = self._create(
                    pretrained=True, pretrained_cfg_overlay={"file": str(path), "custom_load": False}
                )
            except Exception as error:
                read_weights(path)  # if the file itself is bad, this says so
                reason = str(error).splitlines()[0][:120]
                raise UserError(f"'{path}' does not fit {what} ({reason}); give the file of this model.") from error
        # timm is content if a file lacks tensors: one that still has its random start was not in the file.
        start = dict(random.named_parameters())
        missing = [n for n, p in network.named_parameters() if start[n].std() > 0 and torch.equal(p, start[n])]
        if missing:
            raise UserError(
                f"'{path}' does not fit {what}: it lacks '{missing[0]}' and {len(missing) - 1} other tensors; give the "
                "file of this model."
            )
        return network

    def extract(self, images: Tensor) -> Tensor:
        """Features (N, D) of RGB images."""
        if images.shape[1] != 3:
            raise UserError(
                f"{type(self).__name__} reads RGB images, got {images.shape[1]} channels; repeat grey ones three times "
                "or give the metrics an extractor that fits the data."
            )
        resized = RESIZES[self.resize](images, self.size)
        return self.network(standardise(resized, self.config.mean, self.config.std))


class DinoV2(TimmFeatures):
    """DINOv2 ViT-L/14 (Oquab et al. 2023, arXiv 2304.07193), the encoder of FD_DINOv2 (Stein et al. 2023, arXiv
    2306.04675), with EDM2's input: 224x224, bicubic, antialiased, not rounded.

    It is timm's version. Whether its numbers are those of Meta's code, which resamples the position embeddings from 37
    to 16 places in another way, has not been checked on the real weights: call them ``fd_dinov2_timm``, and take
    references from this extractor only.

    Args:
        weights: Meta's ``dinov2_vitl14_pretrain.pth`` or timm's ``model.safetensors``; ``None`` to take timm's from
            the cache of the Hugging Face hub or download it.
        model: Another DINOv2 or DINOv3 of timm.
        size: Height and width of the input.
    """

    def __init__(
        self, weights: str | None = None, model: str = "vit_large_patch14_dinov2.lvd142m", size: int = 224
    ) -> None:
        super().__init__(model, weights, size, "bicubic")
        self.name = f"dinov2_timm_{model}"
