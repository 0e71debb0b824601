"""Networks of pipelines in the diffusers format."""
