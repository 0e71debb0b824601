"""The two towers of a small CLIP: transformers' text model, and a few convolutions for pictures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastgen import checks
from fastgen.storage.documents import parse_json, read_text
from fastgen.storage.files import load_tensors, save_tensors, write_text

if TYPE_CHECKING:
    from transformers import CLIPTextModelWithProjection

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class TowerShape:
    """What a :class:`PictureTower` is made of.

    Attributes:
        channels: Widths of the convolutions; all but the first two halve the picture.
        features: Width of the vector that metrics look at.
        projection: Width of the vector that is compared with texts.
    """

    channels: tuple[int, ...] = (32, 64, 96, 160)
    features: int = 192
    projection: int = 96

    def __post_init__(self) -> None:
        checks.not_empty(self, channels=self.channels)
        checks.whole(self, 8, channels=list(self.channels))
        checks.whole(self, features=self.features, projection=self.projection)


class PictureTower(nn.Module):
    """Pictures (B, 3, R, R) in [-1, 1] to features and to vectors that are compared with texts.

    Position matters to captions, so the last map, 4x4 at 32 pixels, is read whole and not averaged.

    Args:
        shape: Widths.
        resolution: Side of the pictures in pixels.
    """

    def __init__(self, shape: TowerShape = TowerShape(), resolution: int = 32) -> None:
        checks.whole(self, 8, 256, resolution=resolution)
        super().__init__()
        self.shape = shape
        self.resolution = resolution
        blocks: list[nn.Module] = []
        width = 3
        for number, channels in enumerate(shape.channels):
            stride = 1 if number == 0 else 2
            blocks += [nn.Conv2d(width, channels, 3, stride, 1), nn.GroupNorm(channels // 8, channels), nn.SiLU()]
            width = channels
        side = resolution // 2 ** (len(shape.channels) - 1)
        self.convolutions = nn.Sequential(*blocks)
        self.mix = nn.Sequential(nn.Linear(width * side * side, shape.features), nn.SiLU())
        self.projection = nn.Linear(shape.features, shape.projection, bias=False)

    def features(self, pictures: Tensor) -> Tensor:
        """(B, features)."""
        return self.mix(self.convolutions(pictures).flatten(1))

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, projection), of length one."""
        return nn.functional.normalize(self.projection(self.features(pictures)), dim=-1)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and the weights."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        config = {"class": type(self).__name__, "resolution": self.resolution, **asdict(self.shape)}
        write_text(Path(folder) / "config.json", json.dumps(config, indent=2) + "\n")
        save_tensors(Path(folder) / WEIGHTS, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> PictureTower:
        """Read what :meth:`save_pretrained` wrote: frozen, in eval mode, in fp32.

        Raises:
            UserError: If a file is missing or damaged.
        """
        from fastgen.denoisers.base import load_strictly

        config = parse_json(read_text(Path(folder) / "config.json"))
        shape = TowerShape(tuple(config["channels"]), config["features"], config["projection"])
        tower = cls(shape, config["resolution"])
        tensors, _ = load_tensors(Path(folder) / WEIGHTS)
        load_strictly(tower, {name: value.float() for name, value in tensors.items()}, str(folder))
        return tower.requires_grad_(False).eval()


def make_text_tower(vocabulary: int, length: int, width: int, layers: int) -> CLIPTextModelWithProjection:
    """A CLIP text model with random weights, for a tokenizer whose start and end are 0 and 1.

    Args:
        vocabulary: Number of tokens.
        length: Tokens of a text.
        width: Of its vectors, the projection included.
        layers: Number of layers.
    """
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        max_position_embeddings=length,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModelWithProjection(config)


@torch.no_grad()
def embed_texts(tower: CLIPTextModelWithProjection, tokens: Tensor) -> Tensor:
    """Vectors of length one (B, projection) of tokens (B, L)."""
    return nn.functional.normalize(tower(input_ids=tokens).text_embeds, dim=-1)
