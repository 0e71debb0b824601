"""Single calls at each level beside the samples: numbers by hand, and training that does not notice."""

from __future__ import annotations

import pytest
import torch
from tiny import TinySuite
from toys import FreeData, ToyData, build, trainer

from fastgen.callbacks import LevelErrors
from fastgen.errors import UserError
from fastgen.methods import ECT, TBCM
from fastgen.randomness import Draws


@pytest.mark.filterwarnings("ignore")
def test_single_calls_by_hand_and_training_does_not_notice():
    watch = LevelErrors(TinySuite(), levels=[2.0, 0.3], count=50, batch_size=20, every_n_steps=1, role="student")
    watched, plain = build(ECT, seed=3), build(ECT, seed=3)
    run = trainer(2, watch)
    run.fit(watched, ToyData(batch_size=4))
    trainer(2).fit(plain, ToyData(batch_size=4))
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in watched.state_dict().items())
    data = ToyData()
    batch = data.sources[0].batch([i % 48 for i in range(50)])
    (part,) = watched.parts("levels", batch, 0)
    for level in (2.0, 0.3):
        draws = Draws(0, range(20_000, 20_050), f"level {level:g}")
        t = torch.full((50,), level, dtype=torch.float64)
        x_t = part.x0 + level * draws.normal("noise", (2,))
        made = watched.codec.decode(watched.student.eval()(x_t, t, part.condition).x0)
        found = run.callback_metrics[f"levels/size_at_{level:g}"]
        torch.testing.assert_close(found, made.square().mean().double(), rtol=1e-5, atol=0)
    samples = watched.sample(list(range(20_000, 20_050)), data.evaluation_conditions(range(50)), role="student")
    torch.testing.assert_close(
        run.callback_metrics["levels/size_samples"], samples.square().mean().double(), rtol=1e-5, atol=0
    )


@pytest.mark.filterwarnings("ignore")
def test_without_real_samples_there_are_no_levels():
    with pytest.raises(UserError, match="LevelErrors needs real samples"):
        trainer(1, LevelErrors(TinySuite(), count=4)).fit(build(TBCM, points=2), FreeData(batch_size=4))
