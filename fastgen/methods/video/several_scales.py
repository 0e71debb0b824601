"""Self Forcing from teachers that several conditions guide: MotionStream and LiveTalk."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.conditions import Guidance
from fastgen.denoisers.causal.caches import WindowCache
from fastgen.denoisers.wrappers.guided import GuidedPrediction
from fastgen.denoisers.wrappers.several_conditions import JointScales, NestedScales, SeveralScales
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods.video.self_forcing import SelfForcing
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.samplers import ChunkSampler
from fastgen.sampling.scores import ScoreInputs


class SeverallyGuided(SelfForcing):
    """Self Forcing whose teacher is guided by several conditions, each with a scale of its own.

    Args:
        scales: Scales of the teacher's conditions.
    """

    def __init__(self, scales: SeveralScales, guidance: Guidance = Guidance(), **kwargs: Any) -> None:
        super().__init__(guidance=guidance, **kwargs)
        if guidance.teacher != 1.0:
            raise UserError(f"{type(self).__name__}: scales guide the teacher; leave guidance.teacher at 1.")
        self.scales = scales

    def teacher_scores(self, part: MicroBatch, inputs: ScoreInputs) -> GuidedPrediction:
        condition = self.role_condition(part, "teacher", inputs.rollout.condition)
        return self.scales(self.seen(self.teacher), inputs.x_t, inputs.t, condition)


class MotionStream(SeverallyGuided):
    """MotionStream (Shin et al. 2025, arXiv 2511.01266); no code is public.

    :class:`SelfForcing` of a teacher that text and motion guide (:class:`JointScales`), whose three calls a step become
    one of the student. The student remembers a chunk as a sink and one before the present, counted by slot, so that
    what it is trained on is what it streams; longer windows were worse. About 400 updates.

    From a detailed note of the paper; rates and times are Self Forcing's.

    Args:
        scales: 3 for the text, 1.5 for the motion; name the conditions as the data module does.
        sampler: How the student generates: three frames of sink, three of window.
        guidance: The critic's.
    """

    def __init__(
        self,
        scales: SeveralScales = JointScales({"label": 3.0, "drive": 1.5}),
        sampler: ChunkSampler = ChunkSampler(steps=4, cache=WindowCache(3, 3, "slot")),
        **kwargs: Any,
    ) -> None:
        super().__init__(scales=scales, sampler=sampler, **kwargs)


class LiveTalk(SeverallyGuided):
    """LiveTalk (Chern et al. 2025, arXiv 2512.23576; github.com/GAIR-NLP/LiveTalk).

    :class:`SelfForcing` of a teacher that text and audio guide, one after the other (:class:`NestedScales`). Twice Self
    Forcing's rates, and a short run from an :class:`ODEInitialisation` that has converged. A first frame that is given
    (``condition["reference"]``) takes the place of the first one in every call and in what is remembered.

    Not here: the identity sink of its sampler, whose share of anchors is not verified; ``WindowCache`` has a sink.

    Args:
        scales: 6 for the text, 6 for the audio, ``5 + 1`` as the code counts; name the conditions as the data do.
        guidance: The critic's.
    """

    def __init__(
        self,
        scales: SeveralScales = NestedScales({"label": 6.0, "drive": 6.0}),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=4e-6, beta1=0.0),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=8e-7, beta1=0.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            scales=scales, student_optimizer=student_optimizer, critic_optimizer=critic_optimizer, **kwargs
        )
