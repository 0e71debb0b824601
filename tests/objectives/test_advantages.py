"""Advantages within groups."""

import torch

from fastgen.objectives.advantages import normalised_within_groups


def test_by_hand_in_any_order():
    rewards, groups = torch.tensor([1.0, 10.0, 3.0, 14.0, 5.0]).double(), torch.tensor([7, 2, 7, 2, 7])
    found = normalised_within_groups(rewards, groups, floor=0.5)
    first, second = (8 / 3) ** 0.5 + 0.5, 2.0 + 0.5
    expected = torch.tensor([-2 / first, -2 / second, 0.0, 2 / second, 2 / first]).double()
    torch.testing.assert_close(found, expected)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(normalised_within_groups(rewards[order], groups[order], 0.5), found[order])


def test_equal_rewards_and_lone_samples_have_none():
    assert normalised_within_groups(torch.full((4,), 0.1), torch.tensor([0, 0, 0, 5])).abs().max() < 1e-4
