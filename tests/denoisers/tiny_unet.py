"""A diffusers U-Net of a few thousand parameters behind our contract, without files."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.processes import Process


class DiffusersUNet(Denoiser):
    """A tiny text-conditional ``UNet2DConditionModel``."""

    def __init__(self, process: Process) -> None:
        from diffusers import UNet2DConditionModel

        super().__init__(process, "noise", (4, 8, 8))
        self.unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=4,
        )

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        dtype = self.unet.dtype
        return self.unet(x_t.to(dtype), t.to(dtype), encoder_hidden_states=condition["prompt_embeds"].to(dtype)).sample

    def example_condition(self, count: int, device: torch.device | str = "cpu") -> Condition:
        generator = torch.Generator().manual_seed(2)
        return {"prompt_embeds": torch.randn(count, 5, 8, generator=generator, dtype=torch.float64).to(device)}

    @property
    def feature_path(self) -> str:
        return "unet.mid_block"
