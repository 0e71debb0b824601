"""DisCa's restricted mean flows."""

from __future__ import annotations

from typing import Any

from fastgen.methods.flow_maps.mean_flow import MeanFlow
from fastgen.methods.flow_maps.velocity import TeacherVelocity, Velocity
from fastgen.times import GapTimes, JumpLaw


class RestrictedMeanFlow(MeanFlow):
    """The restricted mean flow of DisCa (arXiv 2602.05449; github.com/Tencent-Hunyuan/DisCa, which has no training).

    ``MeanFlow`` along a teacher whose jumps are no longer than a student of few calls needs: large video models do not
    learn longer ones. With ``longest: 1`` it is MeanFlow. Its time input is ``second_time: GatedTime`` with the gate
    0.5, the average of both. The learned cache of features beside it is not here.

    Derived from the abstract and the inference code: the law of lengths and the largest one are not verified.

    Args:
        times: Law of t and s, with a largest length.
        velocity: The teacher's.
    """

    def __init__(
        self, times: JumpLaw = GapTimes(longest=0.25), velocity: Velocity = TeacherVelocity(), **kwargs: Any
    ) -> None:
        super().__init__(times=times, velocity=velocity, **kwargs)
