import math

import pytest
import torch
from torch import Tensor

from fastgen.errors import UserError
from fastgen.processes import EDM, VP, Prediction, Process, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.scores import AlongPrediction, Renoise
from fastgen.times import (
    AnnealedLevel,
    Chain,
    DyadicTimes,
    EasyTimes,
    FlowTime,
    GridTimes,
    KarrasLevel,
    LevelOfStep,
    LogitNormalTime,
    LogNormalLevel,
    SharedLevel,
    SortedTimes,
    StudentLevels,
    TimeLaw,
    ToData,
    UniformStep,
    UniformTime,
    WithinChain,
)

PROCESSES: list[Process] = [EDM(), VP(), RectifiedFlow(), TrigFlow()]
LAWS: list[TimeLaw] = [UniformTime(), UniformStep(), KarrasLevel(), LogNormalLevel(), LogitNormalTime(), FlowTime()]
COUNT = 4000


def draws(count: int = COUNT) -> Draws:
    return Draws(0, range(count), "times")


def name(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("law", LAWS, ids=name)
def test_a_time_belongs_to_its_sample(law: TimeLaw):
    """Cutting a batch into micro-batches or drawing from another batch changes nothing."""
    process, whole = VP(), draws(12)
    t = law.sample(whole, process)
    assert t.shape == (12,) and t.dtype == torch.float64
    parts = torch.cat([law.sample(whole.part(i, i + 3), process) for i in range(0, 12, 3)])
    assert torch.equal(t, parts)
    assert torch.equal(t[[7, 2]], law.sample(Draws(0, [7, 2], "times"), process))
    assert not torch.equal(t, law.sample(whole.scoped("critic"), process))


@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("law", [law for law in LAWS if not isinstance(law, UniformStep)], ids=name)
def test_times_lie_where_networks_are_called(process: Process, law: TimeLaw):
    """On VP, EDM's levels reach beyond the last step and below the first one."""
    t = law.sample(draws(500), process)
    assert bool((t >= 0.0).all()) and bool((t <= process.t_max).all())


def position(process: Process, t: Tensor) -> Tensor:
    """The fraction of the levels below ``t``: on EDM along the rho grid, elsewhere along time."""
    if not isinstance(process, EDM):
        return t / process.t_max
    low, high, root = process.sigma_min ** (1 / 7), process.sigma_max ** (1 / 7), t ** (1 / 7)
    return (root - low) / (high - low)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_uniform_time(process: Process):
    t = position(process, UniformTime(0.1, 0.7).sample(draws(), process))
    assert 0.1 <= t.min() < 0.101 and 0.699 < t.max() < 0.7
    assert abs(t.mean() - 0.4) < 4 * 0.6 / math.sqrt(12 * COUNT)
    assert abs(t.std() - 0.6 / math.sqrt(12)) < 0.01


def test_uniform_step_includes_both_ends():
    t = UniformStep(3, 6).sample(draws(), VP())
    values, counts = t.unique(return_counts=True)
    assert values.tolist() == [3.0, 4.0, 5.0, 6.0]
    assert bool((counts / COUNT - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / COUNT))
    assert UniformStep(7, 7).sample(draws(3), VP()).tolist() == [7.0] * 3
    with pytest.raises(UserError, match="low must be at most high"):
        UniformStep(4, 3)


def test_karras_positions():
    """SiD's tmax = 800 of 1000 caps the noise level near 24.4 (arXiv 2404.04057)."""
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    cap = (low + 0.8 * (high - low)) ** 7
    assert abs(cap - 24.4) < 0.05
    level = KarrasLevel(0.0, 0.8).sample(draws(), EDM())
    assert 0.002 <= level.min() < 0.0022 and 0.99 * cap < level.max() <= cap
    position = (level.pow(1 / 7) - low) / (high - low)
    assert abs(position.mean() - 0.4) < 4 * 0.8 / math.sqrt(12 * COUNT)
    assert torch.allclose(EDM().position(position), level, rtol=1e-10)


@pytest.mark.parametrize("process", PROCESSES[1:], ids=name)
def test_karras_levels_are_the_same_on_every_process(process: Process):
    reference = KarrasLevel(0.02, 0.98, sigma_max=50.0).sample(draws(300), EDM())
    ratio = process.ratio(KarrasLevel(0.02, 0.98, sigma_max=50.0).sample(draws(300), process))
    top = process.ratio(torch.tensor([process.t_max], dtype=torch.float64)).item()
    bottom = process.ratio(torch.zeros(1, dtype=torch.float64)).item()
    inside = (reference < top) & (reference > bottom)
    assert inside.sum() > 150
    torch.testing.assert_close(ratio[inside], reference[inside], rtol=1e-8, atol=0.0)
    torch.testing.assert_close(ratio, reference.clamp(bottom, top), rtol=1e-8, atol=1e-12)


def test_log_normal_levels():
    log_level = LogNormalLevel(-1.2, 1.2).sample(draws(), EDM()).log()
    assert abs(log_level.mean() + 1.2) < 4 * 1.2 / math.sqrt(COUNT)
    assert abs(log_level.std() - 1.2) < 0.05
    on_flow = RectifiedFlow().ratio(LogNormalLevel(-1.2, 1.2).sample(draws(), RectifiedFlow())).log()
    torch.testing.assert_close(on_flow, log_level, rtol=1e-9, atol=1e-9)


def test_logit_normal_times():
    logit = torch.logit(LogitNormalTime(0.3, 0.8).sample(draws(), TrigFlow()) / (math.pi / 2))
    assert abs(logit.mean() - 0.3) < 4 * 0.8 / math.sqrt(COUNT)
    assert abs(logit.std() - 0.8) < 0.04


def test_shifted_flow_times():
    """U -> 5 u / (1 + 4 u), at equal level on every process; the angle of rCM is arctan(u / (1 - u))."""
    u = FlowTime(0.0, 1.0).sample(draws(), RectifiedFlow())
    shifted = FlowTime(0.0, 1.0, shift=5.0).sample(draws(), RectifiedFlow())
    torch.testing.assert_close(shifted, 5 * u / (1 + 4 * u), rtol=1e-12, atol=1e-12)
    angle = FlowTime(0.0, 1.0, shift=5.0).sample(draws(), TrigFlow(1.0))
    torch.testing.assert_close(angle, torch.arctan(shifted / (1 - shifted)), rtol=1e-12, atol=1e-12)
    assert abs(u.mean() - 0.5) < 4 / math.sqrt(12 * COUNT)


def test_dyadic_jumps_and_the_flow_lie_on_their_grids():
    """Jumps of length 1/n start at multiples of it; the flow is learned at multiples of half the shortest."""
    times = DyadicTimes(levels=4, bootstrap=0.5).sample(Draws(0, range(2000)), RectifiedFlow(), 0)
    length = times.t - times.s
    jumps = length > 0
    assert 0.45 < jumps.double().mean() < 0.55
    assert set(length[jumps].unique().tolist()) == {1.0, 0.5, 0.25, 0.125}
    assert torch.equal(((times.t / length)[jumps]).round(), (times.t / length)[jumps])
    assert set((times.t[~jumps] * 16).unique().tolist()) == set(map(float, range(1, 17)))
    torch.testing.assert_close(times.r, 0.5 * (times.t + times.s))


def test_the_middle_is_a_share_of_the_way_from_t_to_s():
    draws, law = Draws(0, range(50)), SortedTimes(diagonal=0.0, middle=0.25)
    times = law.sample(draws, RectifiedFlow(), 0)
    torch.testing.assert_close(times.r, times.t - 0.25 * (times.t - times.s))
    assert bool((times.s < times.t).all())
    drawn = SortedTimes(diagonal=0.0, middle=None).sample(draws, RectifiedFlow(), 0)
    share = (drawn.t - drawn.r) / (drawn.t - drawn.s)
    assert 0.3 < share.mean() < 0.7 and share.std() > 0.2
    ends = SortedTimes(diagonal=0.5, to_data=1.0).sample(draws, RectifiedFlow(), 0)
    assert bool(((ends.s == 0.0) | (ends.s == ends.t)).all()) and 10 < int((ends.s == 0.0).sum()) < 40


def test_flow_times_keep_both_ends():
    t = FlowTime(0.2, 0.5).sample(Draws(0, range(500)), RectifiedFlow())
    assert 0.2 <= t.min() < 0.21 and 0.49 < t.max() <= 0.5


def test_levels_by_step_by_batch_and_by_update():
    """The law of each sample's own step; one draw for all; halfway between two laws in the position of the levels."""
    process, draws = EDM(), Draws(0, range(6), "train", step=3)
    t = torch.full((6,), 5.0, dtype=torch.float64)
    low, high = UniformTime(0.0, 0.1), UniformTime(0.9, 1.0)
    step = torch.tensor([0, 1, 0, 1, 1, 0])
    of_step = LevelOfStep([high, low])
    drawn = process.fraction(of_step.given(Chain(t, 0 * t, step)).sample(draws, process))
    assert bool(((drawn > 0.5) == (step == 0)).all())
    alone = of_step.given(Chain(t, 0 * t, 1)).sample(draws, process)
    assert torch.equal(alone, low.sample(draws, process))
    with pytest.raises(UserError, match="has 2 laws, but the student stopped at its step 3"):
        of_step.given(Chain(t, 0 * t, 2))
    shared = SharedLevel(WithinChain("anchor", "student")).given(Chain(t, 0.5 * t)).sample(draws, process)
    assert len(shared.unique()) == 1
    other = Draws(0, range(100, 103), "train", step=3)
    assert torch.equal(SharedLevel(low).sample(other, process)[0], SharedLevel(low).sample(draws, process)[0])
    annealed = AnnealedLevel(low, high, updates=10)
    for update, share in ((0, 0.0), (5, 0.5), (20, 1.0)):
        found = process.fraction(annealed.given(Chain(t, 0 * t, 0, update)).sample(draws, process))
        ends = [process.fraction(law.sample(draws, process)) for law in (low, high)]
        torch.testing.assert_close(found, ends[0] + share * (ends[1] - ends[0]))
    told = LevelOfStep([high, StudentLevels(noisier=True)]).given(Chain(t, 0 * t, 1, times=[1.0, 0.9, 0.5]))
    assert set(told.sample(draws, process).tolist()) <= {1.0, 0.9, 0.5}
    for law in (of_step, annealed):
        with pytest.raises(UserError, match="use it for renoise_time"):
            law.sample(draws, process)


def test_levels_below_a_noisy_anchor_stay_at_the_anchor():
    """A kernel only adds noise: below its start it would scale the sample up, without a word."""
    process, anchor = EDM(), torch.full((4,), 3.0, dtype=torch.float64)
    x = torch.ones(4, 2, dtype=torch.float64)
    rollout = Rollout(x, {}, 2 * anchor, 0, x, anchor)
    inputs = Renoise(UniformTime(0.0, 0.1))(process, rollout, Draws(0, range(4), "train"))
    assert torch.equal(inputs.t, anchor) and torch.equal(inputs.x_t, x)


def test_levels_of_a_chain_keep_away_from_its_ends_and_follow_a_shift():
    """Uniform in the index of a shifted table: sigma = s u / (1 + (s - 1) u)."""
    process, many = RectifiedFlow(), draws()
    t, s = (torch.full((COUNT,), value, dtype=torch.float64) for value in (0.9, 0.5))  # 0.75 and 0.25 at shift 3
    found = WithinChain(floor=0.0, margin=0.05, shift=3.0).given(Chain(t, s)).sample(many, process)
    even = found / (3.0 - 2.0 * found)
    assert 0.30 <= even.min() < 0.301 and 0.699 < even.max() <= 0.70 and abs(even.mean() - 0.5) < 0.01
    narrow = WithinChain(floor=0.0, margin=0.3).given(Chain(t, s)).sample(many, process)
    torch.testing.assert_close(narrow, torch.full_like(t, 0.7))


def test_levels_of_the_student_are_its_own_times():
    times, many = [1.0, 0.9, 0.5], draws()
    for input_at, noisier, reached in (
        (1.0, False, times[1:]),
        (0.9, False, [0.5]),
        (0.5, False, [0.25]),
        (0.5, True, times),
    ):
        chain = Chain(torch.full((COUNT,), input_at, dtype=torch.float64), torch.zeros(COUNT), times=times)
        found = StudentLevels(noisier).given(chain).sample(many, RectifiedFlow())
        assert sorted(set(found.tolist())) == sorted(reached)
        assert all(abs((found == time).double().mean() - 1 / len(reached)) < 0.03 for time in reached)
    with pytest.raises(UserError, match="use it for renoise_time"):
        StudentLevels().sample(many, RectifiedFlow())


def test_samples_along_the_predicted_noise_are_on_the_students_line():
    """On rectified flow ``x_t' = x_t + (t' - t) v``; with the exact student of a point they are its noised copies."""
    flow, few = RectifiedFlow(), Draws(0, range(6), "train")
    point, noise = torch.tensor([[0.4, -0.2]], dtype=torch.float64), few.normal("z", (2,), torch.float64)
    t = torch.full((6,), 0.75, dtype=torch.float64)
    made = Prediction(flow, flow.add_noise(point.expand(6, 2), noise, t), t, noise - point, "velocity")
    rollout = Rollout(made.x0, {}, t, 0, made.x0, torch.zeros_like(t), (made,))
    inputs = AlongPrediction(StudentLevels(), 0, [1.0, 0.75, 0.25])(flow, rollout, few)
    line = made.x_t + (inputs.t - t)[:, None] * made.velocity
    torch.testing.assert_close(inputs.x_t, line, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inputs.x_t, flow.add_noise(point.expand(6, 2), noise, inputs.t), rtol=1e-12, atol=1e-12)
    with pytest.raises(UserError, match="does not tell its calls"):
        AlongPrediction(UniformTime())(flow, Rollout(made.x0, {}, t, 0, made.x0, t), few)


def test_a_jump_to_data_has_its_target_where_it_begins():
    times = ToData().sample(draws(20), VP(), 0)
    assert torch.equal(times.r, times.t) and set(times.s.tolist()) == {VP().t_clean}
    assert torch.equal(times.t, LogNormalLevel(-1.0, 1.4).sample(draws(20), VP()))


def test_easy_times_approach_each_other_in_noise_level():
    process, law = RectifiedFlow(), UniformTime(0.3, 0.9)
    times = EasyTimes(law, double=None).sample(draws(50), process, 0)
    level = times.t / (1 - times.t)
    wanted = level * (1 - (1 + 8 * torch.sigmoid(-level)) / 2).clamp(min=0.0)
    torch.testing.assert_close(times.r, wanted / (1 + wanted), rtol=1e-9, atol=1e-12)
    assert bool((times.r > 0).any()) and bool((times.s == 0).all())


def test_neighbours_on_a_grid_begin_at_each_of_its_times_and_end_at_data():
    process, grid = VP(), [*VP().grid(5), VP().t_clean]
    times = GridTimes(5).sample(draws(200), process, 0)
    assert set(times.t.tolist()) == set(grid[:-1]) and set(times.s.tolist()) == {process.t_clean}
    assert times.r.tolist() == [grid[grid.index(t) + 1] for t in times.t.tolist()]
    assert GridTimes(5, skip=3).sample(draws(200), process, 0).r.min() == process.t_clean
