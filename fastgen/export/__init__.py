"""Students for people who only know diffusers: pipelines and LoRA files."""
