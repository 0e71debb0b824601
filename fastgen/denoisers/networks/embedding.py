"""What the small networks share: the embedding of time, label and second time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.base import load_strictly
from fastgen.denoisers.networks.labels import LabelledDenoiser
from fastgen.denoisers.wrappers.added_inputs import SecondTime
from fastgen.processes import PredictionKind, Process
from fastgen.storage.files import load_tensors

TIME_FREQUENCIES = 16


class EmbeddingDenoiser(LabelledDenoiser):
    """A network that is modulated by one vector, the sum of the embeddings of its inputs.

    Args:
        process: How data becomes noise.
        prediction: What ``predict`` returns.
        sample_shape: Shape of one sample without the batch axis.
        embedding_width: Width of the embedding.
        num_classes: Number of classes; 0 means unconditional.
        second_time: Whether the network has the second time input of flow maps.
        weights: safetensors file, or ``None``. A file without a second time also fits a network with one.
    """

    def __init__(
        self,
        process: Process,
        prediction: PredictionKind,
        sample_shape: tuple[int, ...],
        embedding_width: int,
        num_classes: int = 0,
        second_time: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__(process, prediction, sample_shape, num_classes, weights)
        self.embedding_width = embedding_width
        self.time_embedding = nn.Sequential(
            nn.Linear(2 * TIME_FREQUENCIES, embedding_width), nn.SiLU(), nn.Linear(embedding_width, embedding_width)
        )
        self.label_embedding = nn.Embedding(num_classes + 1, embedding_width) if num_classes else None
        if second_time:
            self.add_second_time()

    @property
    def time_path(self) -> str:
        return "time_embedding"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the network computes in."""
        return next(self.time_embedding.parameters()).dtype

    def embed(self, features: Tensor, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None) -> Tensor:
        """The activated embedding, shape (B, embedding_width).

        Args:
            features: ``time_features`` of the network's time, shape (B, 2 TIME_FREQUENCIES).
            x_t: The batch, shape (B, ...).
            t: Times, shape (B,).
            condition: Labels.
            s: Second times, shape (B,), or ``None`` for ``s = t``.

        Raises:
            UserError: If ``s`` is given to a network without that input.
        """
        embedding = self.time_embedding(features.to(self.dtype))
        if self.label_embedding is not None:
            embedding = embedding + self.label_embedding(self.labels(condition, x_t))
        return F.silu(self.with_inputs(embedding, t, condition, s))

    def load_weights(self) -> None:
        """Fill the parameters from ``self.weights``; a second time that the file lacks starts without effect."""
        if self.weights is None:
            return
        tensors, _ = load_tensors(self.weights)
        prefix = "second_time."
        if isinstance(self.second_time, SecondTime) and not any(name.startswith(prefix) for name in tensors):
            self.second_time.reset_parameters()
            tensors |= {prefix + name: value for name, value in self.second_time.state_dict().items()}
        load_strictly(self, tensors, self.weights)
