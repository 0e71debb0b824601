"""What stands beside an exported student: ``fastgen.json`` and ``README.md``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastgen.denoisers.diffusers.pipelines import PipelineDenoiser
from fastgen.export.sampling import Sampling
from fastgen.storage.files import write_json


def write_card(out: Path, denoiser: PipelineDenoiser, pipe: Any, sampling: Sampling, load: Sequence[str]) -> None:
    """Say how to use an exported student, in ``fastgen.json`` and ``README.md``.

    Args:
        out: The folder.
        denoiser: The student, or the network that it adapts.
        pipe: Its pipeline, with the scheduler that calls it.
        sampling: How it is sampled.
        load: Lines of Python that make ``pipe``.
    """
    scheduler = type(pipe.scheduler).__name__
    call = {"num_inference_steps": len(sampling.times), **denoiser.call_options(pipe)}
    if sampling.guidance is not None:
        call["guidance_scale"] = sampling.guidance
    facts = {
        "pipeline": type(pipe).__name__,
        "scheduler": scheduler,
        "call": call,
        "times": list(sampling.times),
        "stochastic": sampling.stochastic,
        "prediction": denoiser.prediction,
        "latent_shape": list(denoiser.sample_shape),
        **({} if denoiser.negative_prompt is None else {"negative_prompt": denoiser.negative_prompt}),
        **sampling.facts,
    }
    write_json(out / "fastgen.json", facts)
    code = "\n".join(load)
    imports = "import torch\n" if "torch." in code else ""
    names = ["DiffusionPipeline", *([scheduler] if scheduler in code else [])]
    options = ", ".join(f"{name}={value}" for name, value in call.items())
    result = "frames" if "num_frames" in call else "images"
    teacher = denoiser.pipeline
    base = "" if teacher.is_local else f"base_model: {teacher.pretrained}\n"
    text = f"""---
library_name: diffusers
{base}tags: [fastgen]
---
A student of {len(sampling.times)} steps, distilled with fastgen. Keep the arguments below, they are those of its
training; its scheduler knows when to call it, so give neither timesteps nor sigmas.

```python
{imports}from diffusers import {", ".join(names)}

{code}
result = pipe("a cat", {options}).{result}[0]
```
"""
    if denoiser.negative_prompt is not None:
        text += f"""
Its teacher was guided away from the negative prompt "{denoiser.negative_prompt}"; the student carries that guidance and
is called without one.
"""
    if sampling.stochastic and len(sampling.times) > 1:
        text += """
Noise is added between steps. Some pipelines draw it from torch's global generator whatever `generator` they are given;
call `torch.manual_seed` to make a result repeatable.
"""
    (out / "README.md").write_text(text, encoding="utf-8")
