"""Numbers per sample and per frame meet tensors of samples; groups and steps share random numbers."""

import pytest
import torch

from fastgen.distiller.groups import group_numbers
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.processes import RectifiedFlow
from fastgen.randomness import Draws
from fastgen.shapes import expand, where_rows


@pytest.mark.parametrize(("time", "shape"), [((2,), (2, 3, 4, 4)), ((2, 3), (2, 3, 5)), ((2, 1, 3), (2, 4, 3, 5, 5))])
def test_a_time_per_sample_or_per_frame(time: tuple[int, ...], shape: tuple[int, ...]):
    """Noise at a time per frame is that of the frames one by one."""
    g = torch.Generator().manual_seed(0)
    t = torch.rand(time, generator=g, dtype=torch.float64)
    x0, noise = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    found = RectifiedFlow().add_noise(x0, noise, t)
    frames = (t if t.ndim == 1 else t.reshape(2, -1)).reshape(2, -1)
    axis = {1: None, 2: 1, 3: 2}[t.ndim]
    for b in range(2):
        for f in range(frames.shape[1]):
            at = (b,) if axis is None else (b, *[slice(None)] * (axis - 1), f)
            expected = (1 - frames[b, f]) * x0[at] + frames[b, f] * noise[at]
            assert torch.equal(found[at], expected)


def test_expand_widens_to_fp32_and_where_rows_chooses_samples():
    x = torch.ones(2, 3, 2, dtype=torch.bfloat16)
    assert expand(torch.tensor([1.0, 2.0], dtype=torch.float64), x).dtype == torch.float32
    chosen = where_rows(torch.tensor([True, False]), x, 0.0)
    assert chosen.flatten(1).sum(1).tolist() == [6.0, 0.0]


def test_groups_and_steps_share_numbers():
    """A micro-batch of whole groups sees the numbers of the batch; a cut group is refused."""
    draws = Draws(3, [7, 1, 9, 4, 5, 6], "train", step=2)
    grouped = draws.grouped(2).uniform("t")
    assert torch.equal(grouped[::2], grouped[1::2]) and len(grouped.unique()) == 3
    assert torch.equal(draws.part(2, 4).grouped(2).uniform("t"), grouped[2:4])
    with pytest.raises(UserError, match="cannot be grouped by 4"):
        draws.grouped(4)
    shared = draws.shared().uniform("t")
    assert len(shared.unique()) == 1 and torch.equal(Draws(3, [0], "train", step=2).shared().uniform("t"), shared[:1])
    assert not torch.equal(Draws(3, [0], "train", step=3).shared().uniform("t"), shared[:1])


def test_a_group_of_samples_for_every_condition():
    """Each has draws of its own, the first those of the sample; prompts stay text."""
    part = MicroBatch(
        torch.tensor([[1.0], [2.0]]),
        {"label": torch.tensor([4, 5])},
        Draws(0, [3, 9], "train"),
        raw_condition={"prompt": ["a", "b"]},
    )
    group = part.repeated(3)
    assert group.condition["label"].tolist() == [4, 4, 4, 5, 5, 5] and group.raw_condition["prompt"] == list("aaabbb")
    assert group.x0 is not None and group.x0.flatten().tolist() == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    numbers = group.draws.uniform("noise")
    assert len(numbers.unique()) == 6 and torch.equal(numbers[::3], part.draws.uniform("noise"))
    assert torch.equal(part.draws.part(1, 2).repeated(3).uniform("noise"), numbers[3:])
    assert group_numbers(group.draws, 1).tolist() == [3, 3, 3, 9, 9, 9]
    assert group_numbers(group.draws, 4).tolist() == [0, 0, 0, 2, 2, 2]
