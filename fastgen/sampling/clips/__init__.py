"""How clips are made chunk by chunk, and what is remembered on the way."""

import fastgen.sampling.samplers  # noqa: F401  which lists the samplers of clips too, so it comes first
