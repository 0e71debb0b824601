"""The Inception network of the FID, from either of its two translations of the TensorFlow graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastgen.errors import UserError
from fastgen.metrics.extractors.features import FeatureExtractor
from fastgen.metrics.extractors.resize import resize_clean, resize_none, resize_tf1
from fastgen.metrics.extractors.weights import Release, find_weights, read_weights
from fastgen.storage.files import sha256

SIZE = 299
SMALLEST = 75
"""Below this a layer of the network has nothing left to look at."""

InceptionResize = Literal["tf1", "clean", "none"]
RESIZES: dict[str, Callable[[Tensor, int], Tensor]] = {"tf1": resize_tf1, "clean": resize_clean, "none": resize_none}

TORCH_FIDELITY = Release(
    files=("weights-inception-2015-12-05-6726825d.pth",),
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
)
NVIDIA = Release(
    files=("inception-2015-12-05.pt",),
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
)


class _AnyInception(FeatureExtractor):
    """What both translations share."""

    num_features = 2048
    logits_show_labels = False
    """Its 1008 classes are not those of the data: the logits are for the Inception score, not for an accuracy."""

    def __init__(self, weights: str | None = None, resize: InceptionResize = "tf1") -> None:
        super().__init__()
        if resize not in RESIZES:
            raise UserError(f"{type(self).__name__} has no resize '{resize}'; choose one of {', '.join(RESIZES)}.")
        self.weights = weights
        self.resize = resize
        self.preprocessing = resize if resize == "none" else f"{resize}-{SIZE}"

    def check(self, images: Tensor) -> None:
        """Refuse images that the network cannot read."""
        if images.shape[1] != 3:
            raise UserError(
                f"{type(self).__name__} reads RGB images, got {images.shape[1]} channels; repeat grey ones three times "
                "or give the metrics an extractor that fits the data."
            )
        if self.resize == "none" and min(images.shape[2:]) < SMALLEST:
            raise UserError(
                f"{type(self).__name__} without a resize needs images of at least {SMALLEST} pixels, got "
                f"{tuple(images.shape[2:])}; set resize to 'tf1' or 'clean'."
            )

    @abstractmethod
    def output_weight(self) -> Tensor:
        """The matrix (1008, 2048) of the last layer."""

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Scores (N, 1008) without the bias of the last layer, as the Inception score of torch-fidelity and StyleGAN
        takes them.
        """
        return features.to(self.device) @ self.output_weight().float().T


class Inception(_AnyInception):
    """Inception as torch-fidelity has it: what most papers call FID, after ``resize="tf1"`` that of EDM.

    The file is read as plain tensors. Its sha256 begins with 6726825d, as its name promises.

    Args:
        weights: ``weights-inception-2015-12-05-6726825d.pth`` of torch-fidelity's release (pytorch-fid's file of that
            number is the same), ``.pth`` or ``.safetensors``; ``None`` to take it from PyTorch's cache or download it.
        resize: To 299x299: ``tf1`` (as in the graph, EDM, StyleGAN, torch-fidelity), ``clean`` (clean-fid), or
            ``none``, which leaves images as they are.
    """

    name = "inception_torch_fidelity"

    def build(self) -> nn.Module:
        """The network with the weights of the file."""
        from fastgen.metrics.extractors.inception_network import InceptionNetwork

        path = find_weights(self.weights, TORCH_FIDELITY, "Inception")
        network = InceptionNetwork()
        try:
            network.load_state_dict(read_weights(path))
        except RuntimeError as error:
            raise UserError(
                f"'{path}' does not hold torch-fidelity's Inception; get {TORCH_FIDELITY.files[0]} from "
                f"{TORCH_FIDELITY.place}."
            ) from error
        return network

    def extract(self, images: Tensor) -> Tensor:
        """Features (N, 2048) of RGB images."""
        self.check(images)
        network: Any = self.network
        return network.features((RESIZES[self.resize](images, SIZE) - 128) / 128)

    def output_weight(self) -> Tensor:
        network: Any = self.network
        return network.fc.weight


class NvidiaInception(_AnyInception):
    """Inception as NVIDIA's TorchScript file has it: the network of StyleGAN, EDM and clean-fid.

    ``resize="tf1"`` uses the resize inside the file; the others call its ``layers`` as clean-fid does.

    A TorchScript file is a program: ``torch.jit.load`` does not unpickle Python objects, but the graph in the file
    runs. Take it from NVIDIA only. No digest of theirs is known, so none is checked; the sha256 of the file stands in
    the fingerprint.

    Args:
        weights: ``inception-2015-12-05.pt``; ``None`` to take it from PyTorch's cache or download it.
        resize: To 299x299: ``tf1`` (inside the file), ``clean`` (clean-fid), or ``none`` for images of that size.
    """

    name = "inception_nvidia"

    @cached_property
    def path(self) -> Path:
        """The file."""
        return find_weights(self.weights, NVIDIA, "NvidiaInception")

    def build(self) -> nn.Module:
        """The program of the file."""
        try:
            program = torch.jit.load(str(self.path), map_location="cpu")
        except RuntimeError as error:
            raise UserError(
                f"'{self.path}' is no TorchScript file; get {NVIDIA.files[0]} from {NVIDIA.place}."
            ) from error
        if not (hasattr(program, "layers") and hasattr(program, "output") and hasattr(program.output, "weight")):
            raise UserError(
                f"'{self.path}' is not NVIDIA's Inception (it has no 'layers' or 'output'); get {NVIDIA.files[0]} from "
                f"{NVIDIA.place}."
            )
        return nn.ModuleDict({"program": program})  # a program itself cannot be frozen

    @property
    def program(self) -> nn.Module:
        """What the file holds."""
        network: Any = self.network
        return network["program"]

    def extract(self, images: Tensor) -> Tensor:
        """Features (N, 2048) of RGB images."""
        self.check(images)
        program: Any = self.program
        if self.resize == "tf1":
            return program(images.float(), return_features=True).view(len(images), self.num_features)
        resized = RESIZES[self.resize](images, SIZE)
        if resized.shape[2:] != (SIZE, SIZE):
            raise UserError(
                f"NvidiaInception without a resize reads images of {SIZE}x{SIZE}, got {tuple(images.shape[2:])}; crop "
                "them, or set resize to 'tf1' or 'clean'."
            )
        return program.layers((resized - 128) / 128).view(len(images), self.num_features)

    def output_weight(self) -> Tensor:
        program: Any = self.program
        return program.output.weight

    @cached_property
    def digest(self) -> str:
        """sha256 of the file: the program matters as much as its weights."""
        return sha256(self.path)
