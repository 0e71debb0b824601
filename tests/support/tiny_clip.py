"""A CLIP of open_clip that is small enough for tests, and its checkpoints in the released formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

NAME = "fastgen-tiny-clip"
SIZE, WIDTH = 32, 24

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": WIDTH, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": 3, "layers": 2},
}


def register(folder: Path) -> str:
    """Have open_clip know the model."""
    path = folder / f"{NAME}.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    return NAME


def model(seed: int = 0) -> Any:
    """The model with random weights that tell images and texts apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = open_clip.create_model(NAME)
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.data = torch.randn_like(parameter) * 0.3
    return made.eval().requires_grad_(False)


def save(tensors: dict[str, Tensor], path: Path) -> str:
    """Write ``tensors``: safetensors by the name of the file, nested and prefixed if its name begins with training."""
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    elif path.name.startswith("training"):
        torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in tensors.items()}}, path)
    else:
        torch.save(tensors, path)
    return str(path)


def pictures(count: int = 5, height: int = 48, width: int = 48, seed: int = 0) -> Tensor:
    """Smooth pictures, uint8 (count, 3, height, width)."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=g) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    return smooth.round().clamp(0, 255).to(torch.uint8)


def as_pillow(image: Tensor) -> Image.Image:
    """A picture as Pillow has it."""
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))


PROMPTS = ["a red house", "two dogs on a sofa", "an old map", "a photo of the sea at night", "x"]
