"""An objective of your own, outside the package: Diff-Instruct in three lines, trained on a ring of Gaussians.

    python examples/own_method.py fit --config examples/own_method.yaml
    python examples/own_method.py fit --config examples/own_method.yaml --trainer.max_steps 500
    python examples/own_method.py sample --help

``ScoreDistiller`` brings the networks, their turns and optimizers, EMA, checkpoints, resuming, several GPUs and the
command line; the form says how samples, teacher and critic become a loss. YAML files name it ``own_method.OwnForm``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from torch import Tensor

from fastgen.__main__ import main
from fastgen.objectives.score_forms import ScoreForm, weighted
from fastgen.processes import Prediction


@dataclass(frozen=True)
class OwnForm(ScoreForm):
    """Diff-Instruct: the gradient of an integral Kullback-Leibler divergence (Luo et al. 2023, arXiv 2305.18455).

    Loss: ``mean_B sum sg[mu_fake - mu_real] . x``; its gradient pulls samples from the critic towards the teacher.
    """

    def __call__(self, x: Tensor, real: Prediction, fake: Prediction, weight: Tensor | None = None) -> Tensor:
        return weighted((fake.x0 - real.x0).detach() * x, weight).flatten(1).sum(1).mean()


if __name__ == "__main__":
    sys.exit(main())
