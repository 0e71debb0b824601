"""LPIPS with weights from files: torchvision's backbone and the linear heads that torchmetrics ships."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgen.errors import UserError
from fastgen.metrics.extractors.features import state_digest
from fastgen.metrics.extractors.weights import Release, find_weights, read_weights

Backbone = Literal["alex", "vgg", "squeeze"]

MODELS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}
LAYERS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29), "squeeze": (1, 4, 7, 9, 10, 11, 12)}
"""Numbers of the layers of ``features`` whose outputs are compared."""


SMALLEST = 32
"""Below this the last layers have nothing left to look at."""


class LpipsNetwork(nn.Module):
    """Learned perceptual distance (Zhang et al. 2018, arXiv 1801.03924, eq. 1), version 0.1, without weights.

    Args:
        backbone: ``alex``, ``vgg`` or ``squeeze``.
    """

    shift: Tensor
    spread: Tensor

    def __init__(self, backbone: Backbone) -> None:
        import torchvision

        super().__init__()
        self.layers = LAYERS[backbone]
        self.features = getattr(torchvision.models, MODELS[backbone])(weights=None).features[: self.layers[-1] + 1]
        self.heads = nn.ParameterList()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("spread", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps, each position scaled to length 1."""
        x, maps = (images - self.shift) / self.spread, []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.layers:
                maps.append(x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt())
        return maps

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances (N,) of images (N, 3, H, W) in [-1, 1]."""
        total = first.new_zeros(len(first))
        for a, b, head in zip(self.maps(first), self.maps(second), self.heads, strict=True):
            total = total + functional.conv2d((a - b).square(), head).mean(dim=(1, 2, 3))
        return total


class Lpips:
    """LPIPS of uint8 images; a plain object, so that no metric has its weights in a state dict.

    Args:
        backbone: ``alex`` (usual for diversity), ``vgg`` or ``squeeze``.
        weights: torchvision's file of the backbone, the whole network or its ``features``; ``None`` to take it from
            PyTorch's cache or download it.
    """

    def __init__(self, backbone: Backbone = "alex", weights: str | None = None) -> None:
        if backbone not in MODELS:
            raise UserError(f"LPIPS has no backbone '{backbone}'; choose one of {', '.join(MODELS)}.")
        self.backbone = backbone
        self.weights = weights
        self.device = torch.device("cpu")

    @cached_property
    def network(self) -> LpipsNetwork:
        """The network with its weights, frozen."""
        import torchmetrics.functional.image

        file = FILES[self.backbone]
        path = find_weights(self.weights, Release((file,), f"https://download.pytorch.org/models/{file}"), "LPIPS")
        tensors = read_weights(path)
        network = LpipsNetwork(self.backbone)
        own = network.features.state_dict()
        whole = any(name.startswith("features.") for name in tensors)
        found: dict[str, Any] = {name: tensors.get(f"features.{name}" if whole else name) for name in own}
        wrong = [name for name, tensor in own.items() if found[name] is None or found[name].shape != tensor.shape]
        if wrong:
            raise UserError(
                f"'{path}' does not fit torchvision's {MODELS[self.backbone]} ('features.{wrong[0]}' is missing or of "
                f"another shape); give {file} as 'weights', or set 'backbone' to what the file holds."
            )
        network.features.load_state_dict(found)
        heads = read_weights(Path(torchmetrics.functional.image.__path__[0]) / "lpips_models" / f"{self.backbone}.pth")
        network.heads.extend(heads[f"lin{k}.model.1.weight"] for k in range(len(network.layers)))
        return network.eval().requires_grad_(False).to(self.device)

    def load(self) -> None:
        """Build the network now."""
        _ = self.network

    def to(self, device: torch.device | str) -> Lpips:
        """Work on ``device``; the network is not built for it."""
        self.device = torch.device(device)
        if "network" in vars(self):
            self.network.to(self.device)
        return self

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances (N,) of uint8 images (N, 3, H, W); grey ones are repeated.

        Raises:
            UserError: If the images are too small.
        """
        if min(first.shape[2:]) < SMALLEST:
            raise UserError(
                f"LPIPS needs images of at least {SMALLEST} pixels, got {tuple(first.shape[2:])}; remove it, or set "
                "'backbone' of TeacherAlignment to null."
            )
        a, b = (images.to(self.device).float() / 127.5 - 1 for images in (first, second))
        if a.shape[1] == 1:
            a, b = a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)
        with torch.autocast(self.device.type, enabled=False):
            return self.network(a, b)

    def fingerprint(self) -> str:
        """Backbone and sha256 of the weights."""
        return f"lpips_{self.backbone}/sha256:{state_digest(self.network)[:16]}"
