"""A CLIP checkpoint of transformers under the names of open_clip."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

WHOLE = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
}
TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
NORMS = {
    "text_model.final_layer_norm": "ln_final",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # spelt so in the files
    "vision_model.post_layernorm": "visual.ln_post",
}
LAYER_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
TOWERS = {"text_model": "transformer.resblocks", "vision_model": "visual.transformer.resblocks"}
LAYER = re.compile(r"(text_model|vision_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def open_clip_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of ``transformers.CLIPModel`` as open_clip's ``CLIP`` names and shapes them.

    open_clip multiplies embeddings by its projections from the left, and keeps query, key and value in one tensor.

    Raises:
        KeyError: If there is a tensor that CLIP does not have, or one is missing.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        if name.endswith("position_ids"):
            continue  # 0, 1, 2, ...; old files hold it
        if name in WHOLE:
            renamed[WHOLE[name]] = tensor
        elif name in TRANSPOSED:
            renamed[TRANSPOSED[name]] = tensor.T.contiguous()
        elif stem in NORMS:
            renamed[f"{NORMS[stem]}.{kind}"] = tensor
        elif (match := LAYER.fullmatch(name)) and match[3] in LAYER_PARTS:
            renamed[f"{TOWERS[match[1]]}.{match[2]}.{LAYER_PARTS[match[3]]}.{kind}"] = tensor
        elif match and match[3] == "self_attn.q_proj":
            parts = [tensors[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            renamed[f"{TOWERS[match[1]]}.{match[2]}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif not (match and match[3] in ("self_attn.k_proj", "self_attn.v_proj")):
            raise KeyError(name)
    return renamed
