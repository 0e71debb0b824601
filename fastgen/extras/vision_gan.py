"""VisionGAN: a discriminator on features of networks that were trained on images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.errors import UserError
from fastgen.extras.augmentation import augmented
from fastgen.extras.backbones import Backbone
from fastgen.extras.gan import GAN, ROLE
from fastgen.extras.heads import REFERENCE, ProjectionHead, known_of, over_places
from fastgen.objectives.adversarial import AdversarialLoss, NonSaturating
from fastgen.objectives.weights import LevelWeight, UniformWeight
from fastgen.precision import built_in_fp32
from fastgen.randomness import Draws

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch


class VisionGAN(GAN):
    """A GAN on clean samples as people see them, judged by frozen networks of images with small heads.

    Sauer et al. 2021, Projected GAN, arXiv 2111.01007, as in GDD (arXiv 2405.20750: VGG and DeiT), ADD (arXiv
    2311.17042: DINOv2) and DMDX (arXiv 2507.18569: SAM). Samples are decoded with gradients. A head for each layer
    gives a logit, to which its agreement with the condition is added. The backbones stay frozen and enter no
    checkpoint.

    Differs from Projected GAN: heads read the layers themselves, without random mixing of channels and scales before;
    they go down to one logit for each layer, not to a map of them; embeddings of labels are learned from nothing.

    Args:
        backbones: The networks, e.g. ``{class_path: TimmBackbone, init_args: {model: vgg16_bn, layers: [...]}}``.
        weight: Factor of the student's loss.
        discriminator_weight: Factor of the discriminator's loss.
        start: Student update from which all terms are active.
        width: Channels of the heads; ``features`` for as many as the features have.
        conditional: Whether heads are told the condition.
        reference: Whether they are told the real sample, too, that the student's was made from: the last features of
            the first network, averaged over places, as in ADD and SenseFlow (that of a real sample is itself).
        augment: Judge samples with other colours, moved and cut, real ones and the student's alike.
        optimizer: Builds the discriminator's optimizer.
        r1_gamma: Factor of the exact R1 penalty at real samples, augmented as they are judged.
        r1_interval: Updates between two penalties, whose factor grows by as much.
        objective: The two losses of the logits.
        level_weight: Weight of a sample in both by the noise level of the student's call that made it.
        role: The discriminator's name among the roles; a second one needs another.
    """

    networks: list[nn.Module]

    def __init__(
        self,
        backbones: Sequence[Backbone],
        weight: float = 1.0,
        discriminator_weight: float = 1.0,
        start: int = 0,
        width: int | Literal["features"] = "features",
        conditional: bool = True,
        reference: bool = False,
        augment: bool = True,
        optimizer: OptimizerCallable = torch.optim.Adam,
        r1_gamma: float = 0.0,
        r1_interval: int = 16,
        objective: AdversarialLoss = NonSaturating(),
        level_weight: LevelWeight = UniformWeight(),
        role: str = ROLE,
    ) -> None:
        checks.not_empty(self, backbones=backbones)
        super().__init__(
            weight=weight,
            discriminator_weight=discriminator_weight,
            start=start,
            features="teacher",
            width=width,
            optimizer=optimizer,
            r1_gamma=r1_gamma,
            r1_interval=r1_interval,
            objective=objective,
            level_weight=level_weight,
            role=role,
        )
        self.backbones = backbones
        self.conditional = conditional
        self.reference = reference
        self.augment = augment

    def make_heads(self, method: Distiller) -> nn.ModuleList:
        with built_in_fp32():
            found = [backbone.build().requires_grad_(False).eval() for backbone in self.backbones]
        object.__setattr__(self, "networks", found)  # no submodules: neither saved nor cast
        student = method.student
        place = next(student.parameters()).device
        with torch.no_grad():
            images = method.codec.decode(torch.zeros(1, *student.sample_shape, device=place))
            features = self.seen(images)
            shapes = [feature.shape[1:] for feature in features]
            condition = dict(student.example_condition(1, place))
            condition |= {REFERENCE: over_places(features)} if self.reference else {}
            known = known_of(condition, student.num_classes, self.conditional)
        size = None if known is None else known.shape[1]
        return nn.ModuleList(ProjectionHead(shape, self.width, size) for shape in shapes)

    def told(self, method: Distiller, part: MicroBatch, condition: Condition) -> Condition:
        if not self.reference:
            return condition
        if part.x0 is None:
            raise UserError(
                "The reference of VisionGAN is a real sample; the data module gives none ('x0' is missing)."
            )
        with torch.no_grad():
            images = method.codec.decode(part.x0)
            images = images.to(torch.promote_types(images.dtype, torch.float32))
            with torch.autocast(images.device.type, enabled=False):
                return {**condition, REFERENCE: over_places(self.seen(images))}

    def seen(self, images: Tensor) -> list[Tensor]:
        """The features of all layers of all backbones."""
        found: list[Tensor] = []
        for backbone, network in zip(self.backbones, self.networks, strict=True):
            first: Any = next(network.parameters(), images)
            if (first.device, first.dtype) != (images.device, images.dtype):
                network.to(images.device, images.dtype)
            found += backbone.features(network, images)
        return found

    def logits(self, method: Distiller, *judged: tuple[Tensor, Condition, Draws]) -> tuple[Tensor, ...]:
        """Logits (B, heads) of each of some batches of clean samples x0 (B, ...)."""
        found = []
        for x0, condition, draws in judged:
            images = method.codec.decode(x0)
            with torch.autocast(images.device.type, enabled=False):
                images = images.to(torch.promote_types(images.dtype, torch.float32))
                if self.augment:
                    images = augmented(images, draws.scoped("augment"))
                known = known_of(condition, method.student.num_classes, self.conditional)
                features = self.seen(images)
                rows = [head(feature, known) for head, feature in zip(self.heads, features, strict=True)]
            found.append(torch.stack(rows, dim=1))
        return tuple(found)
