"""Draws belong to samples, not to batches or processes."""

from __future__ import annotations

import pytest
import torch

from fastgen.randomness import Draws, derive_seed, generator, philox


def test_seeds_depend_on_every_key_and_on_their_order():
    seeds = {derive_seed(*keys) for keys in ((1, 2), (2, 1), (1, 2, 0), (12,), ("1", "2x"), (1, "noise"))}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "noise") == derive_seed(1, "noise")


def test_generators_repeat():
    assert torch.equal(torch.randn(3, generator=generator(5, "a")), torch.randn(3, generator=generator(5, "a")))


DRAWS = {
    "normal": lambda draws: draws.normal("x", (2, 3)),
    "uniform": lambda draws: draws.uniform("x"),
    "gauss": lambda draws: draws.gauss("x"),
    "integers": lambda draws: draws.integers("x", 1000),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_draw_belongs_to_its_sample(draw):
    whole = draw(Draws(seed=3, indices=range(8)))
    torch.manual_seed(99)
    torch.randn(7)
    assert torch.equal(draw(Draws(seed=3, indices=list(range(8)), step=5)), whole)
    split = [draw(Draws(seed=3, indices=range(8)).part(a, b)) for a, b in ((0, 3), (3, 8))]
    assert torch.equal(torch.cat(split), whole)
    order = [5, 0, 7, 2]
    assert torch.equal(draw(Draws(seed=3, indices=order)), whole[order])
    assert torch.equal(draw(Draws(seed=3, indices=torch.tensor(order))), whole[order])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_seed_and_scope_change_the_draw(draw):
    draws = Draws(seed=3, indices=range(8))
    others = (Draws(seed=4, indices=range(8)), draws.scoped("critic"), draws.scoped("critic").scoped("noise"))
    results = [draw(d) for d in (draws, *others)]
    assert all(not torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])
    assert len(draws.scoped("critic")) == 8


def test_names_change_the_draw():
    draws = Draws(seed=3, indices=range(8))
    assert not torch.equal(draws.uniform("a"), draws.uniform("b"))


def test_shared_draws_ignore_the_samples():
    a, b = Draws(1, range(4), "student", step=7), Draws(1, range(100, 103), "student", step=7)
    assert a.shared_integer("exit", 10**6) == b.part(1, 2).shared_integer("exit", 10**6)
    assert a.shared_uniform("exit") == b.shared_uniform("exit")
    later = Draws(1, range(4), "student", step=8)
    assert a.shared_uniform("exit") != later.shared_uniform("exit")
    assert {Draws(1, [0], step=i).shared_integer("exit", 4) for i in range(50)} == {0, 1, 2, 3}


def test_moments_and_dtypes():
    draws = Draws(seed=0, indices=range(4000))
    normal = draws.normal("n", (4,))
    assert normal.shape == (4000, 4) and normal.dtype == torch.float32
    assert abs(float(normal.mean())) < 0.03 and abs(float(normal.std()) - 1) < 0.03
    # Neighbouring samples and values are uncorrelated.
    assert abs(float((normal[1:] * normal[:-1]).mean())) < 0.03
    uniform = draws.uniform("u")
    assert uniform.dtype == torch.float64 and float(uniform.min()) >= 0 and float(uniform.max()) < 1
    assert abs(float(uniform.mean()) - 0.5) < 0.02 and abs(float(uniform.var()) - 1 / 12) < 0.005
    assert draws.gauss("g").dtype == torch.float64 and abs(float(draws.gauss("g").var()) - 1) < 0.1
    counts = torch.bincount(draws.integers("i", 5), minlength=5)
    assert int(counts.min()) > 700 and len(counts) == 5


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (0xFFFFFFFF, 0xFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_philox_gives_the_published_known_answers(counter: int, key: int, words: tuple[int, ...]) -> None:
    # kat_vectors of Random123, the authors' own implementation.
    word = torch.full((1,), counter, dtype=torch.int64)
    assert tuple(int(w) for w in philox((word, word, word, word), (key, key))) == words


def test_seeds_are_64_bits_and_scopes_add_up():
    seeds = [5, 5 + 2**32, 5 + 2**40, 2**62]
    assert len(Draws(0, seeds).normal("x", ()).unique()) == 4
    one, other, alone = (
        draws.uniform("x")
        for draws in (
            Draws(0, [1]).scoped("a").scoped("c"),
            Draws(0, [1]).scoped("b").scoped("c"),
            Draws(0, [1]).scoped("c"),
        )
    )
    assert len({float(value) for value in (one, other, alone)}) == 3
