"""Resizes against stored arrays, which other programs computed, and against those programs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fastgen.metrics.extractors import resize

RAMP = torch.tensor(
    [
        [0, 83, 166, 249, 76, 159],
        [37, 120, 203, 30, 113, 196],
        [148, 231, 58, 141, 224, 51],
        [77, 160, 243, 70, 153, 236],
    ],
    dtype=torch.uint8,
)

# torch-fidelity 0.4.0, interpolate_bilinear_2d_like_tensorflow1x(align_corners=False)
TF1 = [
    [0.0, 99.6, 199.2, 145.2, 142.4],
    [29.6, 129.2, 146.88, 92.88, 172.0],
    [103.6, 172.48, 108.24, 146.4, 123.12],
    [119.6, 188.48, 124.24, 162.4, 139.12],
    [77.0, 176.6, 173.8, 119.8, 219.4],
]
# clean-fid 0.1.35, make_resizer("PIL", False, "bicubic"), with Pillow 13.0.0
CLEAN = [
    [7.3681, 104.1227, 226.9786, 134.8171, 136.7658],
    [26.8786, 142.6325, 148.4937, 81.2968, 181.0728],
    [114.508, 168.3056, 89.4397, 143.5584, 127.8295],
    [153.7908, 182.4958, 102.5091, 191.3283, 114.3308],
    [82.4132, 199.4187, 159.6109, 110.5643, 233.355],
]
# Pillow 13.0.0, resize((5, 5), BICUBIC) and resize((3, 2), BICUBIC) of the 8-bit image
PILLOW = [
    [7, 104, 227, 134, 137],
    [27, 142, 149, 82, 181],
    [114, 168, 90, 144, 128],
    [154, 183, 103, 191, 114],
    [82, 199, 160, 111, 233],
]
PILLOW_SMALLER = [[82, 149, 134], [152, 138, 157]]
# Cubic convolution with a = -0.75 at half-pixel centres, written out in numpy
PLAIN = [
    [3.998, 108.4034, 238.4863, 121.8641, 148.6735],
    [20.4945, 143.7545, 153.1052, 68.814, 192.621],
    [109.8968, 177.651, 77.625, 154.253, 116.0052],
    [148.1109, 194.4847, 93.5787, 209.4627, 97.8326],
    [78.8275, 201.2426, 161.4208, 105.7553, 239.7177],
]


def ramp() -> torch.Tensor:
    return RAMP.expand(1, 3, 4, 6)


def photograph(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth shapes with some noise, uint8 (2, 3, height, width)."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, 3, 5, 5, generator=g) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    return (smooth + 12 * torch.randn(2, 3, height, width, generator=g)).round().clamp(0, 255).to(torch.uint8)


def through_pillow(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    array = np.asarray(
        Image.fromarray(image.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BICUBIC)
    )
    return torch.from_numpy(array.copy()).permute(2, 0, 1).float()


@pytest.mark.parametrize(
    ("function", "stored", "tolerance"),
    [
        (resize.resize_tf1, TF1, 1e-4),
        (resize.resize_clean, CLEAN, 1e-3),
        (resize.resize_bicubic, CLEAN, 1e-2),  # the same filter, in fp32; nothing overshoots here
        (resize.resize_squash, PILLOW, 0),
        (resize.resize_bicubic_plain, PLAIN, 1e-3),
    ],
)
def test_stored_arrays(function, stored: list[list[float]], tolerance: float) -> None:
    resized = function(ramp(), 5)
    assert resized.dtype == torch.float32 and resized.shape == (1, 3, 5, 5)
    expected = torch.tensor(stored, dtype=torch.float32).expand(1, 3, 5, 5)
    torch.testing.assert_close(resized, expected, rtol=0, atol=tolerance)


def test_pillow_to_another_shape_and_none() -> None:
    assert resize.resize_pillow(ramp(), 2, 3)[0, 1].tolist() == PILLOW_SMALLER
    assert torch.equal(resize.resize_none(ramp()), ramp().float())


@pytest.mark.parametrize("shape", [(32, 32), (48, 64), (256, 256), (400, 300)])
def test_tf1_equals_torch_fidelity(shape: tuple[int, int]) -> None:
    reference = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    images = photograph(*shape)
    expected = reference.interpolate_bilinear_2d_like_tensorflow1x(images.float(), (299, 299), align_corners=False)
    torch.testing.assert_close(resize.resize_tf1(images, 299), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("shape", [(32, 32), (48, 64), (256, 256), (400, 300)])
def test_clean_equals_clean_fid(shape: tuple[int, int]) -> None:
    from cleanfid.resize import build_resizer

    resizer = build_resizer("clean")
    images = photograph(*shape)
    expected = torch.stack([torch.from_numpy(resizer(image.permute(1, 2, 0).numpy())) for image in images])
    torch.testing.assert_close(resize.resize_clean(images, 299), expected.permute(0, 3, 1, 2), rtol=0, atol=2e-4)


@pytest.mark.parametrize("shape", [(16, 16), (300, 420), (512, 512)])
def test_pillow_equals_pillow(shape: tuple[int, int]) -> None:
    for images in (photograph(*shape), torch.randint(256, (2, 3, *shape)).to(torch.uint8)):
        expected = torch.stack([through_pillow(image, 224, 160) for image in images])
        difference = (resize.resize_pillow(images, 224, 160) - expected).abs()
        assert difference.max() <= 1 and (difference > 0).double().mean() < 0.01  # Pillow's weights have 22 bits


def test_the_resize_matters() -> None:
    """The reason for all of this: the input of one network differs by many grey levels."""
    images = photograph(32, 32)
    assert (resize.resize_tf1(images, 299) - resize.resize_clean(images, 299)).abs().mean() > 3


def test_shortest_is_that_of_open_clip() -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from fastgen.metrics.extractors.open_clip_tower import MEAN, STD

    transform = image_transform_v2(PreprocessCfg(size=32), is_train=False)
    for shape in ((48, 64), (71, 40), (20, 20)):
        images = photograph(*shape)
        expected = torch.stack([transform(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images])
        ours = resize.standardise(resize.resize_shortest(images, 32), MEAN, STD)
        assert (ours - expected).abs().max() < 0.016  # one of 255 levels


def test_longest_pads_with_black() -> None:
    images = photograph(64, 32)
    resized = resize.resize_longest(images, 16)
    assert resized.shape == (2, 3, 16, 16)
    assert float(resized[..., :4].abs().sum() + resized[..., 12:].abs().sum()) == 0.0
    torch.testing.assert_close(
        resized[..., 4:12], torch.nn.functional.interpolate(images.float(), (16, 8), mode="bicubic", antialias=True)
    )
    uneven = resize.resize_longest(photograph(10, 7), 10)
    assert uneven.shape[2:] == (10, 10) and float(uneven[..., :1].sum()) == 0.0 and float(uneven[..., 8:].sum()) == 0.0
