"""Features inside any network, and the classification heads of a discriminator on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastgen.conditions import Condition, select
from fastgen.denoisers.base import Denoiser, ForwardStopped
from fastgen.denoisers.wrappers.base import Wrapper
from fastgen.errors import UserError
from fastgen.processes import Prediction
from fastgen.sharding import blocks


def _first_tensor(output: Any) -> Tensor:
    """The first tensor of a module's output: a tensor, a tuple or list, or a mapping such as diffusers' outputs."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output


class Rest:
    """What becomes of a forward once all features are recorded, from the next block on.

    Blocks are the members of a network's outermost module lists and dicts; nothing that a strategy or gradient
    checkpointing begins is left unfinished, for what is sharded are members of lists, and whole networks.

    Args:
        network: The network.
        how: ``computed``: nothing changes. ``without graph``: no gradients through what follows. ``left out``: the
            network's own forward ends; it needs to be a ``Denoiser``.
    """

    def __init__(self, network: nn.Module, how: Literal["computed", "without graph", "left out"]) -> None:
        self.network = network
        self.how = how
        self.reached = False
        self.grad_before: bool | None = None
        hooked = [] if how == "computed" else list(blocks(network, (nn.ModuleList, nn.ModuleDict)))
        self.handles = [block.register_forward_pre_hook(self.enter, prepend=True) for block in hooked]

    def enter(self, _block: nn.Module, _inputs: Any) -> None:
        """A block begins."""
        if not self.reached:
            return
        if self.how == "left out":
            raise ForwardStopped(self.network)
        if self.grad_before is None:
            self.grad_before = torch.is_grad_enabled()
            torch.set_grad_enabled(False)

    def end(self) -> None:
        """The network's forward is over."""
        self.reached = False
        if self.grad_before is not None:
            torch.set_grad_enabled(self.grad_before)
            self.grad_before = None


@contextmanager
def tap(
    module: nn.Module,
    paths: Sequence[str],
    rest: Literal["computed", "without graph", "left out"] = "computed",
) -> Iterator[dict[str, Tensor]]:
    """Record outputs of submodules, with their gradients.

    Example:
        >>> with tap(denoiser, ["mid"]) as features:
        ...     prediction = denoiser(x_t, t, condition)
        >>> logits = head(features["mid"])

    Args:
        module: Any network.
        paths: Names of submodules, as in ``module.named_modules()``.
        rest: What becomes of the layers after the last of them, see :class:`Rest`; a prediction that is ``left out`` is
            zero.

    Yields:
        A dict from path to the output of the latest forward; of several outputs the first tensor.

    Raises:
        UserError: If a path names no submodule.
    """
    submodules = dict(module.named_modules())
    features: dict[str, Tensor] = {}

    def record(path: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        features[path] = feature = _first_tensor(output)
        remaining.reached = all(known in features for known in paths)
        if feature.requires_grad:
            for gather in gathers[path]:
                feature.register_hook(lambda _gradient, gather=gather: gather())

    def show(_module: nn.Module, _inputs: Any, output: Any) -> None:
        remaining.end()
        if isinstance(output, Prediction):
            output.features |= features

    # A sharded module gathers its weights again when the gradient of its output comes. That of a feature inside need
    # not come that way: so it calls the modules around it itself, and the features join the outputs of the outermost.
    gathers: dict[str, list[Any]] = {
        path: [
            part.unshard
            for name, part in submodules.items()
            if hasattr(part, "unshard") and f"{path}.".startswith(f"{name}.")
        ]
        for path in paths
    }
    handles = [module.register_forward_hook(show, prepend=True)]  # before a strategy looks at the output
    remaining = Rest(module, rest)
    try:
        for path in paths:
            if path not in submodules:
                near = get_close_matches(path, submodules, n=3, cutoff=0.4) or list(submodules)[1:4]
                raise UserError(
                    f"{type(module).__name__} has no layer '{path}'; choose a module path such as "
                    f"{', '.join(repr(name) for name in near)}."
                )
            handles.append(submodules[path].register_forward_hook(partial(record, path)))
        yield features
    finally:
        remaining.end()
        for handle in (*handles, *remaining.handles):
            handle.remove()


class Watched(Wrapper):
    """A network that is asked about samples anyway, and keeps its features of them with their gradients.

    Where scores are compared no gradient runs through the networks; the features alone get one, to ``x_t``, and the
    layers after them none. Rows of a call beyond the samples (the null condition of guidance) are not watched.

    Args:
        view: The network as it is asked, maybe on another process.
        backbone: The network whose submodules ``paths`` name.
        paths: Names of the submodules.
        x_t: The samples, (B, ...), with their graph; they are the first B rows of the call.
        features: Where the features go, by path.
    """

    def __init__(
        self, view: Denoiser, backbone: nn.Module, paths: Sequence[str], x_t: Tensor, features: dict[str, Tensor]
    ) -> None:
        super().__init__(view)
        self.view, self.watched, self.paths = view, backbone, paths
        self.x_t, self.features = x_t, features

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        count = len(self.x_t)
        if torch.is_grad_enabled():
            with tap(self.watched, self.paths) as features:
                value = self.view(x_t, t, condition, s).value
            self.features.update({path: feature[:count] for path, feature in features.items()})
            return value

        def part(rows: slice) -> tuple[Tensor, Condition, Tensor | None]:
            return t[rows], select(condition, rows), None if s is None else s[rows]

        watched, rest = slice(count), slice(count, None)
        with torch.set_grad_enabled(self.x_t.requires_grad), tap(self.watched, self.paths, "without graph") as features:
            value = self.view(self.x_t, *part(watched)).value.detach()
        self.features.update(features)
        if len(x_t) == count:
            return value
        return torch.cat([value, self.view(x_t[rest], *part(rest)).value])

    @property
    def wrapped(self) -> Denoiser:
        return self.view


@torch.no_grad()
def feature_shapes(denoiser: Denoiser, paths: Sequence[str]) -> list[tuple[int, ...]]:
    """Shapes, without the batch axis, of what :func:`tap` records at ``paths`` of the denoiser's network."""
    network = denoiser.backbone
    if any(parameter.is_meta for parameter in network.parameters()):  # another process has the values
        network = copy.deepcopy(network).to("meta")
    device = next(network.parameters()).device
    with tap(network, paths, "left out") as features:
        x = torch.zeros(1, *network.sample_shape, device=device)
        t = torch.full((1,), 0.5 * network.process.t_max, dtype=torch.float64, device=device)
        network(x, t, network.example_condition(1, device))
    return [tuple(features[path].shape[1:]) for path in paths]


def tokens(features: Tensor) -> Tensor:
    """Features as a set (B, L, C) of each sample: maps (B, C, H, W) by place, tokens as they are, vectors as one."""
    if features.ndim == 4:
        return features.flatten(2).mT
    return features if features.ndim == 3 else features[:, None]


def _group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with at most 32 groups of at least 8 channels: smaller groups would erase the values of a 1x1 map."""
    groups = next((g for g in (32, 16, 8, 4, 2) if channels % g == 0 and channels // g >= 8), 1)
    return nn.GroupNorm(groups, channels)


class DiscriminatorHead(nn.Module):
    """One real-or-fake logit per sample from features of a diffusion network.

    - Maps (C, H, W): 4x4 convolutions of stride 2, group norm and SiLU down to 1x1, then a linear layer (Yin et al.
      2024, DMD2, arXiv 2405.14867, appendix). A side that is already 1 is not convolved along.
    - Tokens (L, C): a perceptron per token, mean over tokens, then a linear layer.
    - Vectors (C,): a perceptron.

    Args:
        in_shape: Shape of the features without the batch axis, as :func:`tap` shows it.
        width: Hidden channels; ``None`` means as many as the features have.

    Raises:
        UserError: If ``in_shape`` has not one, two or three axes.
    """

    def __init__(self, in_shape: Sequence[int], width: int | None = None) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        if len(self.in_shape) == 3:
            channels, *sides = self.in_shape
            width = width or channels
            layers: list[nn.Module] = []
            while max(sides) > 1:
                (kh, sh, ph), (kw, sw, pw) = ((4, 2, 1) if side > 1 else (1, 1, 0) for side in sides)
                convolution = nn.Conv2d(channels, width, (kh, kw), (sh, sw), (ph, pw))
                layers += [convolution, _group_norm(width), nn.SiLU()]
                channels, sides = width, [max(side // 2, 1) for side in sides]
            self.body = nn.Sequential(*layers, nn.Flatten())
        elif len(self.in_shape) in (1, 2):
            channels = self.in_shape[-1]
            width = width or channels
            self.body = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width), nn.SiLU())
            channels = width
        else:
            raise UserError(
                f"DiscriminatorHead reads features of shape (C, H, W), (L, C) or (C,), got {self.in_shape}; "
                "choose another layer."
            )
        self.logit = nn.Linear(channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B,) of features (B, *in_shape)."""
        hidden = self.body(features.to(self.logit.weight.dtype))
        if hidden.ndim == 3:
            hidden = hidden.mean(dim=1)
        return self.logit(hidden).squeeze(1)
