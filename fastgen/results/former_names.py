"""What the numbers of result files measure that were written before rows said it: by patterns of their names."""

from __future__ import annotations

import re

from fastgen.results.kinds import BOOKKEEPING, Kind

KINDS: tuple[tuple[str, Kind], ...] = (
    (r"(^|_)(geneval|dpg|vbench|hpsv3|vqascore)", Kind("judge", "higher")),
    (r"count$|(?<!over)_floor$|^floor$|^step|_std$", BOOKKEEPING),
    (r"recall|coverage|modes_found|vendi|diversity|pairwise_lpips", Kind("coverage", "higher")),
    (r"mode_kl", Kind("coverage", "lower")),
    (r"frechet|(^|_)fid|(^|_)fd_|(^|_)kid|kernel|mmd|wasserstein|(^|_)nll$", Kind("fidelity", "lower")),
    (r"precision|density|inception|high_quality|accuracy|clip|hps|pick|aesthetic", Kind("fidelity", "higher")),
    (r"duplicate|repeated|memori", Kind("other", "lower")),
    (r"teacher_lpips", Kind("alignment", "lower")),
    (r"teacher_psnr", Kind("alignment", "higher")),
)
"""The first pattern that matches counts. New metrics do not belong here: they say their kinds themselves."""


def kind_by_name(name: str) -> Kind:
    """What ``name`` measured in an old file."""
    return next((kind for pattern, kind in KINDS if re.search(pattern, name)), Kind())
