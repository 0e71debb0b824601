"""A network whose answer is a policy for a whole segment of the flow."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.base import Wrapper
from fastgen.denoisers.wrappers.policies import Policy, PolicyFamily
from fastgen.errors import UserError
from fastgen.processes import Prediction, Process, RectifiedFlow
from fastgen.processes.prediction import at_least_float32

FLOW = RectifiedFlow()


def twin_of(layer: nn.Module, values: Tensor) -> nn.Linear | nn.Conv2d:
    """A layer that reads what ``layer`` reads and gives ``values`` (outputs,) everywhere, until it is trained.

    Raises:
        UserError: If ``layer`` is neither linear nor a convolution.
    """
    twin: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Linear):
        twin = nn.Linear(layer.in_features, len(values))
    elif isinstance(layer, nn.Conv2d):
        twin = nn.Conv2d(layer.in_channels, len(values), layer.kernel_size, layer.stride, layer.padding)  # type: ignore
    else:
        raise UserError(
            f"A policy reads what the last layer reads, a linear layer or Conv2d, not {type(layer).__name__}."
        )
    twin.to(layer.weight.device, layer.weight.dtype)
    nn.init.zeros_(twin.weight)
    with torch.no_grad():
        assert twin.bias is not None
        twin.bias.copy_(values)
    return twin


class PolicyDenoiser(Wrapper):
    """Any denoiser, widened by a second last layer whose outputs shape a policy around its own prediction.

    As an ordinary denoiser it answers with the policy's estimate at the source.

    Args:
        network: The denoiser; its weights are kept.
        family: What policies are made of.
        head: Module path of its last layer, whose output has the place of a sample (a vector or a map), or of a
            transformer the linear layer that gives square patches of a map, row by row.

    Raises:
        UserError: If there is no such layer or its output has other channels than a sample.
    """

    forward_methods = ("policy",)

    def __init__(self, network: Denoiser, family: PolicyFamily, head: str = "head") -> None:
        super().__init__(network, prediction="x0")
        layer = dict(network.backbone.named_modules()).get(head)
        if layer is None:
            raise UserError(
                f"{type(network).__name__} has no layer '{head}'; give model.init_args.head its last layer."
            )
        channels = network.sample_shape[0]
        self.network, self.family, self.head = network, family, head
        self.patch = self._side_of_patches(layer)
        self.extra = twin_of(layer, family.initial(channels).repeat(self.patch**2))
        given = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        flat = isinstance(layer, nn.Linear) and not self.in_patches
        if given != channels * self.patch**2 or flat != (len(network.sample_shape) == 1):
            raise UserError(
                f"The layer '{head}' of {type(network).__name__} gives {given} channels that are not those of a sample "
                f"{network.sample_shape}; policies need a network whose last layer gives a sample's own."
            )

    @property
    def in_patches(self) -> bool:
        """Whether the last layer gives patches of a map, not the map."""
        return isinstance(self.extra, nn.Linear) and len(self.sample_shape) == 3

    def _side_of_patches(self, layer: nn.Module) -> int:
        """Side of what a linear layer gives of a map (C, H, W) at every place; 1 of any other layer."""
        if not isinstance(layer, nn.Linear) or len(self.sample_shape) != 3:
            return 1
        return math.isqrt(layer.out_features // self.sample_shape[0])

    def shaping(self, seen: Tensor) -> Tensor:
        """The outputs that shape the policy, (B, outputs) or (B, outputs, H, W), for what the last layer read.

        Raises:
            UserError: If that is not as many patches as there are in a map.
        """
        values = at_least_float32(self.extra(seen))
        if not self.in_patches:
            return values
        p, (_, height, width) = self.patch, self.sample_shape
        if values.shape[1] != (height // p) * (width // p):
            raise UserError(
                f"The layer '{self.head}' of {type(self.network).__name__} does not give patches of a sample "
                f"{self.sample_shape}; give model.init_args.head its last layer."
            )
        cells = values.unflatten(1, (height // p, width // p)).unflatten(-1, (p, p, -1))  # (B, h, w, p, p, outputs)
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(len(values), -1, height, width)

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition, end: Tensor) -> Policy:
        """The policy of one call, in the coordinates of rectified flow.

        Args:
            x_t: Source in the network's own process, (B, ...).
            t: Its time there, (B,).
            condition: What is asked for.
            end: End of the segment in the time of rectified flow, (B,).
        """
        seen: list[Tensor] = []
        layer = self.network.backbone.get_submodule(self.head)
        handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            prediction = self.network(x_t, t, condition)
        finally:
            handle.remove()
        x, time = self.process.warp(prediction.x_t, t, FLOW)
        velocity = prediction.noise - prediction.x0
        return self.family.policy(x, time, end, velocity, self.shaping(seen[-1]).to(velocity.dtype))

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        policy = self.policy(x_t, t, condition, torch.zeros_like(t))
        return policy.x0(policy.x_source, policy.t_source)

    @property
    def wrapped(self) -> Denoiser:
        return self.network

    def guide(self, conditional: Prediction, unconditional: Prediction, scale: float | Tensor) -> Prediction:
        """Plainly: the network's own rule is for its own answers."""
        return conditional.guided(unconditional, scale)

    @property
    def feature_path(self) -> str:
        return f"network.{self.network.feature_path}"


def flow_time(process: Process, t: Tensor) -> Tensor:
    """``sigma / (alpha + sigma)``, the time of rectified flow at the same noise level."""
    alpha, sigma = process.coefficients(t)
    return sigma / (alpha + sigma)
