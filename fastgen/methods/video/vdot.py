"""VDOT."""

from __future__ import annotations

from typing import Any

from fastgen.methods.video.self_forcing import SelfForcing
from fastgen.objectives.few_step_forms import TransportForm
from fastgen.objectives.score_forms import ScoreForm


class VDOT(SelfForcing):
    """VDOT (CVPR 2026; from a detailed note, code was not found): optimal transport in the place of score differences.

    :class:`SelfForcing` with a :class:`TransportForm`, DMD's form beside it. Its GAN, relativistic on real videos, is
    ``extras: [GAN]`` on the critic's features. Differs: the paper alternates the two losses update by update; here they
    are one sum. With ``matching`` alone it is Self Forcing.

    Args:
        form: How the two scores become the student's loss.
    """

    def __init__(self, form: ScoreForm = TransportForm(), **kwargs: Any) -> None:
        super().__init__(form=form, **kwargs)
