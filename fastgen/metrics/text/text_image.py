"""Scores of images, most of them against the texts they were made from, by networks of open_clip."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgen import checks
from fastgen.errors import UserError
from fastgen.metrics.extractors.hf_clip import open_clip_names
from fastgen.metrics.extractors.open_clip_tower import MEAN, STD, OpenClipTower
from fastgen.metrics.extractors.resize import resize_lanczos, resize_longest, standardise
from fastgen.metrics.extractors.weights import Release, find_weights, read_weights
from fastgen.metrics.samples.picture_metric import PictureMetric, Pictures
from fastgen.results.kinds import Kind
from fastgen.storage.files import sha256


class EmbeddingScore(PictureMetric):
    """The mean over images of a number that their embedding gives; beside it how much the embeddings differ.

    Gives ``<name>``, ``<name>_<style>`` for every style that occurred, and ``<name>_diversity``: the mean of 1 - cosine
    over all pairs of different images. A score is a fidelity number, and a sampler that repeats its best picture wins
    it; that sampler's diversity is 0. The diversity counts the variety of the prompts too: compare it at equal prompts.

    All states are fp64 sums, so several ranks with whatever shares give what one process gives. The network is not
    part of the metric's state dict.

    Args:
        tower: The network.
        styles: Names of groups of prompts whose means are given as well.
        name: Name of the score, if it is not that of the class.
    """

    name: str
    scale = 1.0
    needs_prompts = True

    totals: Tensor
    counts: Tensor
    embedding_total: Tensor
    embedding_squares: Tensor

    def __init__(self, tower: OpenClipTower, styles: Sequence[str] = (), name: str = "") -> None:
        super().__init__()
        self.tower = tower
        self.styles = tuple(styles)
        self.name = name or self.name
        scores = [self.name, *(f"{self.name}_{style}" for style in self.styles)]
        diversity = {f"{self.name}_diversity": Kind("coverage", "higher")}  # how much the embeddings differ
        self.numbers = dict.fromkeys(scores, Kind("fidelity", "higher")) | diversity
        slots, size = len(self.styles) + 1, tower.embedding_size  # the last slot: images without a style
        self.add_state("totals", torch.zeros(slots, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(slots, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("embedding_total", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("embedding_squares", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def load(self) -> None:
        """Read the network."""
        self.tower.load()

    def observe(self, batch: Pictures) -> None:
        """Take in pictures with their prompts and styles."""
        self.update(batch.images, batch.prompt, batch.style)

    def pixels(self, images: Tensor) -> Tensor:
        """The network's input for uint8 images (N, 3, H, W)."""
        return self.tower.pixels(images)

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Numbers (N,) for normalised embeddings of ``images`` (N, D) and their prompts."""

    def update(self, samples: Tensor, prompts: Sequence[str] | None = None, style: Sequence[str] | None = None) -> None:
        """Add images.

        Args:
            samples: uint8 (N, 3, H, W).
            prompts: N texts, where the score needs them.
            style: N names out of ``styles``.

        Raises:
            UserError: If prompts are missing, their number is wrong, or images or styles are not what is expected.
        """
        kind = type(self).__name__
        if samples.dtype != torch.uint8 or samples.ndim != 4 or samples.shape[1] != 3:
            raise UserError(f"{kind} reads uint8 RGB images (N, 3, H, W), got {samples.dtype} {tuple(samples.shape)}.")
        for what, texts in (("prompts", prompts if self.needs_prompts else None), ("styles", style)):
            if texts is not None and (isinstance(texts, str) or len(texts) != len(samples)):
                raise UserError(f"{kind} got {len(texts)} {what} for {len(samples)} images; give one per image.")
        if self.needs_prompts and prompts is None:
            raise UserError(
                f"{kind} needs the prompts that the images were made from; evaluate with a data module that has "
                "prompts or remove this metric."
            )
        if not len(samples):
            return
        slots = [len(self.styles)] * len(samples)
        if self.styles and style is not None:
            if unknown := set(style) - set(self.styles):
                raise UserError(f"{kind} has no style '{min(unknown)}'; its 'styles' are {', '.join(self.styles)}.")
            slots = [self.styles.index(name) for name in style]
        self.tower.to(self.device)
        embeddings = functional.normalize(self.tower.embed_pixels(self.pixels(samples.to(self.device))), dim=1)
        scores = self.score(embeddings, prompts or []).double() * self.scale
        index = torch.tensor(slots, device=self.device)
        self.totals = self.totals.index_add(0, index, scores)
        self.counts = self.counts + torch.bincount(index, minlength=len(self.counts))
        self.embedding_total = self.embedding_total + embeddings.double().sum(dim=0)
        self.embedding_squares = self.embedding_squares + embeddings.double().square().sum()

    def compute(self) -> dict[str, float]:
        """The means over all images, and over each style."""
        count = int(self.counts.sum())
        if count == 0:
            raise UserError(f"{type(self).__name__} has seen no image; raise the number of samples.")
        numbers = {self.name: float(self.totals.sum()) / count}
        for slot, style in enumerate(self.styles):
            if self.counts[slot] > 0:
                numbers[f"{self.name}_{style}"] = float(self.totals[slot]) / int(self.counts[slot])
        if count > 1:
            alike = float(self.embedding_total.square().sum() - self.embedding_squares) / (count * (count - 1))
            numbers[f"{self.name}_diversity"] = 1 - alike
        return numbers

    @property
    def preprocessing(self) -> str:
        """What happens to pixels and prompts; stands in the fingerprint."""
        return self.tower.resize_mode

    def fingerprint(self) -> str:
        """Name, network, preprocessing and sha256 of the weights."""
        return f"{self.name}/{self.tower.model}/{self.preprocessing}/sha256:{self.tower.digest[:16]}"


class CLIPScore(EmbeddingScore):
    """Mean cosine between image and prompt (Hessel et al. 2021, arXiv 2104.08718, without its factor 2.5 and without
    clipping at 0): the ``clip_score`` of text-to-image papers, about 0.3.

    The network, the prefix and the size change the number: SiD-LSG and DMD2 take ViT-g-14 (``laion2b_s12b_b42k``), DMD2
    with the prefix "A photo depicts " and images that are first scaled to 256 pixels by Lanczos.

    Args:
        model: open_clip's name.
        weights: ``.safetensors`` file or PyTorch checkpoint; ``None`` for the published file of ``tag``.
        tag: Published weights whose preprocessing is used; ``None`` only for a model without published weights.
        prefix: Put before every prompt.
        lanczos: Height and width to which the square centre of an image is scaled before anything else.
        styles: Names of groups of prompts whose means are given as well.
    """

    name = "clip_score"

    def __init__(
        self,
        model: str = "ViT-g-14",
        weights: str | None = None,
        tag: str | None = "laion2b_s12b_b42k",
        prefix: str = "",
        lanczos: int | None = None,
        styles: Sequence[str] = (),
    ) -> None:
        checks.whole(self, 1, checks.LARGEST_SIDE, lanczos=lanczos)
        super().__init__(OpenClipTower(model, weights, tag, "CLIPScore"), styles)
        self.prefix = prefix
        self.lanczos = lanczos

    def pixels(self, images: Tensor) -> Tensor:
        """As open_clip prepares them, after the first resize if there is one."""
        return super().pixels(images if self.lanczos is None else resize_lanczos(images, self.lanczos))

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosines (N,)."""
        texts = functional.normalize(self.tower.embed_texts([self.prefix + prompt for prompt in prompts]), dim=1)
        return (images * texts).sum(dim=1)

    @property
    def preprocessing(self) -> str:
        first = "" if self.lanczos is None else f"lanczos{self.lanczos}+"
        return first + super().preprocessing + (f"/prefix:{self.prefix!r}" if self.prefix else "")


class HPSv2(EmbeddingScore):
    """Human preference score v2 (Wu et al. 2023, arXiv 2306.09341): 100 times the cosine between image and prompt.

    The network is open_clip's ViT-H-14 without QuickGELU with the weights of the release; images are resized by their
    longest side in floating point and padded with black, as the official tool does it. Its table is 100 times the mean
    as here; its ``score()`` has no factor. Versions cannot be compared. The benchmark has 800 prompts in each of four
    styles; give ``styles`` to have their means. The official tool runs in half precision, this in fp32.

    Args:
        weights: ``HPS_v2.1_compressed.pt`` or ``HPS_v2_compressed.pt``; ``None`` to take it from the cache of the
            Hugging Face hub or download it.
        version: Whose file it is; stands in the name of the number: ``hps_v2.1`` or ``hps_v2.0``.
        styles: Names of groups of prompts, e.g. anime, concept-art, paintings, photo.
        antialias: Of the resize. torchvision did it for tensors since 0.17, after HPSv2 came out.
        model: Another network of open_clip with OpenAI's pixel means; for tests.
    """

    scale = 100.0

    def __init__(
        self,
        weights: str | None = None,
        version: Literal["v2.1", "v2.0"] = "v2.1",
        styles: Sequence[str] = (),
        antialias: bool = True,
        model: str = "ViT-H-14",
    ) -> None:
        file = {"v2.1": "HPS_v2.1_compressed.pt", "v2.0": "HPS_v2_compressed.pt"}.get(version)
        if file is None:
            raise UserError(f"HPSv2 has no version '{version}'; choose 'v2.1' or 'v2.0'.")
        tag = "laion2b_s32b_b79k" if model == "ViT-H-14" else None
        release = Release((file,), repository="xswu/HPSv2")
        super().__init__(OpenClipTower(model, weights, tag, "HPSv2", release), styles, f"hps_{version}")
        self.antialias = antialias

    def pixels(self, images: Tensor) -> Tensor:
        """As the official tool: longest side, floating point, black padding."""
        return standardise(resize_longest(images, self.tower.image_size, antialias=self.antialias), MEAN, STD)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosines (N,)."""
        return (images * functional.normalize(self.tower.embed_texts(prompts), dim=1)).sum(dim=1)

    @property
    def preprocessing(self) -> str:
        return "longest-float" + ("" if self.antialias else "-plain")


class _PickScoreTower(OpenClipTower):
    """An open_clip network filled from a checkpoint of ``transformers.CLIPModel`` or of open_clip."""

    def fill(self, network: nn.Module) -> None:
        tensors = read_weights(self.path)
        if any(name.startswith("vision_model.") for name in tensors):
            network.load_state_dict(open_clip_names(tensors))
        else:
            super().fill(network)


class PickScore(EmbeddingScore):
    """PickScore v1 (Kirstain et al. 2023, arXiv 2305.01569, section 4): logit scale times the cosine, about 22.

    CLIP ViT-H-14, fine-tuned; the release is a checkpoint of transformers, which is read into open_clip's network.
    That transformers' CLIP and ours give the same number is tested on small networks; the number itself has not been
    compared with the official one on the real weights.

    Args:
        weights: ``model.safetensors`` or ``pytorch_model.bin`` of yuvalkirstain/PickScore_v1; ``None`` to take it from
            the cache of the Hugging Face hub or download it.
        styles: Names of groups of prompts whose means are given as well.
        model: Another network of open_clip with OpenAI's pixel means; for tests.
    """

    name = "pick_score"

    def __init__(self, weights: str | None = None, styles: Sequence[str] = (), model: str = "ViT-H-14") -> None:
        tag = "laion2b_s32b_b79k" if model == "ViT-H-14" else None
        release = Release(("model.safetensors", "pytorch_model.bin"), repository="yuvalkirstain/PickScore_v1")
        super().__init__(_PickScoreTower(model, weights, tag, "PickScore", release), styles)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scaled cosines (N,)."""
        scale = self.tower.network.logit_scale
        assert isinstance(scale, Tensor)
        return scale.exp() * (images * functional.normalize(self.tower.embed_texts(prompts), dim=1)).sum(dim=1)


AESTHETIC = Release(
    ("sac+logos+ava1-l14-linearMSE.pth",),
    url="https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac%2Blogos%2Bava1-l14-linearMSE.pth",
)


class AestheticScore(EmbeddingScore):
    """LAION's aesthetic score, about 1 to 10: linear maps of the normalised CLIP embedding; prompts play no part.

    Both heads are read: the one matrix of ``sa_0_4_vit_l_14_linear.pth`` (LAION-AI/aesthetic-predictor) and the stack
    of ``sac+logos+ava1-l14-linearMSE.pth`` (christophschuhmann/improved-aesthetic-predictor), which has no activations
    between its layers; a head trained with them would give wrong numbers here. Which of the two a paper means has to be
    looked up there. Neither has been compared with the official code on the real weights.

    Args:
        head: File of the head; ``None`` to take the second one from PyTorch's cache or download it.
        weights: File of the CLIP network; ``None`` for OpenAI's published one.
        model: open_clip's name; OpenAI's networks have QuickGELU.
        tag: Published weights whose preprocessing is used; ``None`` only for a model without published weights.
    """

    name = "aesthetic"
    needs_prompts = False

    def __init__(
        self,
        head: str | None = None,
        weights: str | None = None,
        model: str = "ViT-L-14-quickgelu",
        tag: str | None = "openai",
    ) -> None:
        super().__init__(OpenClipTower(model, weights, tag, "AestheticScore"))
        self.head_file = head

    def load(self) -> None:
        """Read the network and the head."""
        super().load()
        _ = self.head

    @cached_property
    def head_path(self) -> Path:
        """The file of the head."""
        return find_weights(self.head_file, AESTHETIC, "AestheticScore", "head")

    @cached_property
    def head(self) -> list[tuple[Tensor, Tensor]]:
        """Matrices and biases, the first one first; a list, so that the metric has no parameters."""
        tensors = read_weights(self.head_path)
        stems = [name.removesuffix("weight") for name in tensors if name.endswith("weight")]
        stems.sort(key=lambda stem: [int(part) for part in stem.split(".") if part.isdigit()])
        layers = [(tensors[f"{stem}weight"].float(), tensors[f"{stem}bias"].float()) for stem in stems]
        widths = [self.tower.embedding_size, *(weight.shape[0] for weight, _ in layers)]
        if [weight.shape[1] for weight, _ in layers] != widths[:-1] or widths[-1] != 1:
            raise UserError(
                f"'{self.head_path}' does not map {self.tower.model}'s {self.tower.embedding_size} numbers to one; "
                "give the head that belongs to this network."
            )
        return layers

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,)."""
        for weight, bias in self.head:
            images = functional.linear(images, weight.to(images.device), bias.to(images.device))
        return images.squeeze(1)

    def fingerprint(self) -> str:
        """As of the others, with the head."""
        return f"{super().fingerprint()}/head:{sha256(self.head_path)[:16]}"
