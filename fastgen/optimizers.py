"""Adam's family with both betas as numbers of their own, as the defaults of methods need them.

A default that is written as a call with plain numbers can be shown by ``--print_config``; one with a pair cannot. Names
differ from torch's, since whoever puts another class in the place of a default keeps what has the same name.
"""

from __future__ import annotations

from typing import Any

import torch


class BetasAdam(torch.optim.Adam):
    """``torch.optim.Adam``.

    Args:
        params: What is trained.
        lr: Learning rate.
        beta1: Decay of the mean of gradients; 0 keeps none.
        beta2: Decay of the mean of their squares.
        epsilon: Added to its root.
        decay: Factor of an L2 penalty.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=(beta1, beta2), eps=epsilon, weight_decay=decay)


class BetasAdamW(torch.optim.AdamW):
    """``torch.optim.AdamW``.

    Args:
        params: What is trained.
        lr: Learning rate.
        beta1: Decay of the mean of gradients; 0 keeps none.
        beta2: Decay of the mean of their squares.
        epsilon: Added to its root.
        decay: Decay of the weights themselves, per unit of learning rate.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr=lr, betas=(beta1, beta2), eps=epsilon, weight_decay=decay)


class BetasRAdam(torch.optim.RAdam):
    """``torch.optim.RAdam``.

    Args:
        params: What is trained.
        lr: Learning rate.
        beta1: Decay of the mean of gradients.
        beta2: Decay of the mean of their squares.
        epsilon: Added to its root.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        super().__init__(params, lr=lr, betas=(beta1, beta2), eps=epsilon)
