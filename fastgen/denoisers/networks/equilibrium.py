"""Fixed points as layers: forward by iteration, backward by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def fixed_point(
    function: Callable[[Tensor], Tensor], start: Tensor, iterations: int, backward_iterations: int
) -> Tensor:
    """Z with ``z = function(z)``, and its gradient (Bai et al. 2019, deep equilibrium models, arXiv 1909.01377).

    The iteration keeps no graph. The gradient of a loss l with respect to whatever ``function`` contains is
    ``u^T d function`` with ``u = grad l + J^T u``, J the derivative of ``function`` at z; that too is a fixed point,
    solved by iteration. So memory does not grow with the number of iterations, which is always the same: a sample does
    not depend on the batch that it is made in.

    Args:
        function: A contraction of tensors like ``start``.
        start: Where to begin, (B, ...).
        iterations: Of the forward pass.
        backward_iterations: Of the backward pass; 0 is the gradient through one application (Jacobian-free).
    """
    with torch.no_grad():
        z = start
        for _ in range(iterations):
            z = function(z)
    if not torch.is_grad_enabled():
        return function(z)
    reached = function(z)
    if not reached.requires_grad or not backward_iterations:
        return reached
    point = z.detach().requires_grad_()
    again = function(point)

    def solve(gradient: Tensor) -> Tensor:
        u = gradient
        for _ in range(backward_iterations):
            (pulled,) = torch.autograd.grad(again, point, u, retain_graph=True)
            u = gradient + pulled
        return u

    reached.register_hook(solve)
    return reached
