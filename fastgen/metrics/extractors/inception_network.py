"""Inception v3 as the graph of the FID has it; kept apart because it builds on torchvision's classes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional
from torchvision.models.inception import (
    BasicConv2d,
    Inception3,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

CLASSES = 1008


def average(x: Tensor) -> Tensor:
    """3x3 means that do not count the padding."""
    return functional.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)


# torchvision's blocks compute their last branch with another pooling; it is thrown away, a few percent of the work.
class _BlockA(InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(average(x))]


class _BlockC(InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(average(x))]


class _BlockE(InceptionE):
    def _forward(self, x: Tensor) -> list[Tensor]:
        last = x.shape[1] == 2048
        pooled = functional.max_pool2d(x, kernel_size=3, stride=1, padding=1) if last else average(x)
        return [*super()._forward(x)[:-1], self.branch_pool(pooled)]


class InceptionNetwork(Inception3):
    """The network of ``inception-2015-12-05``: 2048 features and 1008 classes, without weights.

    torchvision's with the differences of that graph, which pytorch-fid found: means that do not count the padding, and
    a maximum in the last block. Its tensors have the names of torch-fidelity's file.
    """

    def __init__(self) -> None:
        blocks = [BasicConv2d, _BlockA, InceptionB, _BlockC, InceptionD, _BlockE, InceptionAux]
        super().__init__(
            num_classes=CLASSES,
            aux_logits=False,
            transform_input=False,
            inception_blocks=blocks,  # type: ignore[arg-type]
            init_weights=False,
            dropout=0.0,
        )

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (N, 2048) of images (N, 3, H, W) in about [-1, 1]."""
        x = self.maxpool1(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = self.maxpool2(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return self.avgpool(x).flatten(1)
