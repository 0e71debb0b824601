"""A LoRA merged into the network of a pipeline: fine-tunes as people share them, as teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastgen.denoisers.diffusers.pipeline_files import first_line
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder, only_errors
from fastgen.errors import UserError


def merge_lora(pipeline: PipelineFolder, part: str, network: nn.Module, file: str) -> None:
    """Change ``network`` as the LoRA says, as diffusers' pipeline loads and fuses it, whatever its dialect.

    Args:
        pipeline: Whose network it is; its class knows the dialects.
        part: The network's name in the pipeline.
        network: The diffusers module with its weights; changed in place.
        file: A ``.safetensors`` file.

    Raises:
        UserError: If the file is missing or no safetensors, does not fit, or changes nothing or other parts.
    """
    path = Path(file).expanduser()
    if path.suffix != ".safetensors" or not path.is_file():
        raise UserError(f"lora = '{file}' is no .safetensors file here; give the file of a LoRA for this pipeline.")
    others = [name for name, value in pipeline.index.items() if isinstance(value, list | tuple) and name != "vae"]
    pipe: Any = pipeline.assemble({**dict.fromkeys(others), part: network})
    before = {name: value.clone() for name, value in network.named_parameters()}
    names = set(network.state_dict())
    refused = f"The LoRA '{file}' does not fit {type(pipe).__name__} of '{pipeline.pretrained}'"
    try:
        with only_errors():
            pipe.load_lora_weights(str(path.parent), weight_name=path.name)
            fused: Any = network
            fused.fuse_lora()
            pipe.unload_lora_weights()
    except (ValueError, KeyError, IndexError, RuntimeError, AttributeError, OSError) as error:
        raise UserError(f"{refused} ({first_line(error)}); give one that was trained for this base model.") from error
    if set(network.state_dict()) != names or all(torch.equal(v, before[n]) for n, v in network.named_parameters()):
        raise UserError(f"{refused}: it changes nothing in '{part}'; give one that was trained for this base model.")
