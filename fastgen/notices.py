"""Lines for the user of a running command that are no errors: on standard error, once for all processes."""

from __future__ import annotations

import sys

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tqdm import tqdm


@rank_zero_only
def notice(sentence: str) -> None:
    """Write ``note: sentence`` without breaking a progress bar. Unlike a warning it is never filtered."""
    tqdm.write(f"note: {sentence}", file=sys.stderr)
