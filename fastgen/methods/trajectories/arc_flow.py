"""ArcFlow: policies whose integral is known."""

from __future__ import annotations

from typing import Any

from fastgen.denoisers.wrappers.policies import Momentum, PolicyFamily
from fastgen.methods.trajectories.pi_flow import PiFlow
from fastgen.sampling.samplers import PolicySampler


class ArcFlow(PiFlow):
    """ArcFlow (2026, arXiv 2602.09014; github.com/pnotp/ArcFlow): imitation as in pi-Flow, of momentum policies.

    ``v(t) = sum_k w_k v_k e^(g_k (t_source - t))``; a segment is one sum, without substeps. Two calls, sixteen
    components, four states, dropout 0.1, as for FLUX.1 and Qwen-Image (LoRA of rank 256, 10,000 updates, shift 3.2:
    give ``policy: {class_path: Momentum, init_args: {shift: 3.2}}``).

    Differs, as pi-Flow does here: one segment per update instead of all in turn, the teacher's stretches equal. How the
    code's head begins its rates was not read; here at 0, so that a policy begins as one Euler step.

    Args:
        policy: What policies are made of.
        states: Times of a segment at which the teacher is asked.
        dropout: Probability with which the policy that is followed without gradient lacks a component.
        sampler: Where segments begin.
    """

    def __init__(
        self,
        policy: PolicyFamily = Momentum(),
        states: int = 4,
        dropout: float = 0.1,
        sampler: PolicySampler = PolicySampler(steps=2),
        **kwargs: Any,
    ) -> None:
        super().__init__(policy=policy, states=states, dropout=dropout, sampler=sampler, **kwargs)
