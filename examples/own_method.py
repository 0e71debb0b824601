"""A method of your own, outside the package: Diff-Instruct in ten lines, trained on a ring of Gaussians.

    python examples/own_method.py fit --config examples/own_method.yaml
    python examples/own_method.py fit --config examples/own_method.yaml --trainer.max_steps 500
    python examples/own_method.py sample --help

The base class brings the networks, their turns and optimizers, EMA, checkpoints, resuming, several GPUs and the command
line; the method says how samples, teacher and critic become a loss. YAML files name it ``own_method.OwnMethod``.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor

from fastgen.__main__ import main
from fastgen.methods import ScoreDistiller
from fastgen.processes import Prediction
from fastgen.sampling.students import Rollout
from fastgen.times import LogNormalLevel, TimeLaw


class OwnMethod(ScoreDistiller):
    """Diff-Instruct: the gradient of an integral Kullback-Leibler divergence (Luo et al. 2023, arXiv 2305.18455).

    Loss: ``mean_B sum sg[mu_fake - mu_real] . x``; its gradient pulls samples from the critic towards the teacher.

    Args:
        renoise_time: Law of the noise levels at which the scores are compared; default EDM's log-normal.
    """

    def __init__(self, renoise_time: TimeLaw | None = None, **kwargs: Any) -> None:
        super().__init__(renoise_time=renoise_time or LogNormalLevel(), **kwargs)

    def score_loss(self, rollout: Rollout, real: Prediction, fake: Prediction) -> Tensor:
        return ((fake.x0 - real.x0).detach() * rollout.x0).flatten(1).sum(1).mean()


if __name__ == "__main__":
    sys.exit(main())
