"""Policies against exact posteriors, and imitation against values by hand; fp64."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from toys import network

from fastgen.denoisers import MLP, DiT, UNet
from fastgen.denoisers.exact.gaussians import MixtureDenoiser
from fastgen.denoisers.wrappers.policies import DX, GMFlow, GridPolicy, MixturePolicy
from fastgen.denoisers.wrappers.policy import PolicyDenoiser
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods import PiFlow
from fastgen.processes import EDM, VP, Process, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import JumpSampler, PolicySampler
from fastgen.sampling.solvers import Euler

MEANS = torch.tensor([[1.0, 0.2], [-0.8, 0.5], [0.1, -1.1]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
STD = 0.3
FLOW = RectifiedFlow()
PROCESSES: dict[str, Process] = {"edm": EDM(), "vp": VP(), "flow": FLOW, "trig": TrigFlow(1.0)}
by_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def law(process: Process = FLOW) -> MixtureDenoiser:
    return MixtureDenoiser(process, MEANS, STD, WEIGHTS)


def posterior_policy(x: torch.Tensor, t: torch.Tensor) -> MixturePolicy:
    """What Bayes' rule says about x0 given the source: again a mixture of Gaussians."""
    alpha, sigma = (1 - t)[:, None, None], t[:, None, None]
    marginal = alpha**2 * STD**2 + sigma**2
    offset = x[:, None] - alpha * MEANS
    logits = WEIGHTS.log()[None, :, None] - 0.5 * offset.square().sum(2, keepdim=True) / marginal
    means = MEANS + alpha * STD**2 / marginal * offset
    return MixturePolicy(x, t, means, (sigma * STD).square() / marginal, logits)


def states(count: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("source", [1.0, 0.8, 0.3])
def test_a_mixture_policy_can_be_the_teacher_everywhere(source: float):
    """From the posterior at the source it answers E[x0 | x_t] at any other state and time."""
    t_source = torch.full((12,), source, dtype=torch.float64)
    policy, teacher = posterior_policy(states(), t_source), law()
    for fraction in (1.0, 0.9, 0.5, 0.1, 0.01):
        t, x = fraction * t_source, states(seed=3)
        expected = teacher(x, t).x0 if fraction < 1 else teacher(policy.x_source, t).x0
        found = policy.x0(x if fraction < 1 else policy.x_source, t)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def test_following_the_exact_policy_is_the_teachers_solver():
    one = torch.ones(12, dtype=torch.float64)
    x, _ = posterior_policy(states(), one).follow(states(), one, 0 * one, 64)
    torch.testing.assert_close(x, Euler(64).solve(law(), states(), {}), rtol=1e-9, atol=1e-9)


def test_one_point_is_a_constant_velocity_and_a_ddim_step():
    """Specification 8.2, identity 13: the mean velocity of a constant policy is the network's output."""
    t, s = torch.full((12,), 0.9, dtype=torch.float64), torch.full((12,), 0.2, dtype=torch.float64)
    u = states(seed=2)
    policy = DX(1).policy(states(), t, s, u, torch.zeros(12, 2, dtype=torch.float64))
    x, mean = policy.follow(states(), t, s, 17)
    torch.testing.assert_close(mean, u, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(x, states() - 0.7 * u, rtol=1e-10, atol=1e-10)


def test_grid_policies_are_linear_between_their_points():
    t, s = torch.full((3,), 0.8, dtype=torch.float64), torch.full((3,), 0.2, dtype=torch.float64)
    points = torch.arange(4, dtype=torch.float64)[None, :, None].expand(3, 4, 2).clone()
    policy = GridPolicy(states(3), t, s, points)
    for fraction in (0.0, 0.25, 0.5, 0.9, 1.0):
        found = policy.x0(states(3), t - fraction * 0.6)
        torch.testing.assert_close(found, torch.full((3, 2), 3 * fraction, dtype=torch.float64))


def test_the_gradient_of_a_policy_reaches_every_output():
    family = GMFlow(4)
    extra = family.initial(2).double().expand(6, -1).clone().requires_grad_()
    t = torch.full((6,), 0.9, dtype=torch.float64)
    policy = family.policy(states(6), t, 0 * t, states(6, 1), extra)
    x, mean = policy.follow(states(6), t, 0 * t, 8)
    (mean.square().sum() + x.square().sum()).backward()
    assert (extra.grad != 0).all()
    assert not policy.detach().means.requires_grad

    def function(values: torch.Tensor) -> torch.Tensor:
        return family.policy(states(6), t, 0 * t, states(6, 1), values).follow(states(6), t, 0 * t, 3)[1]

    assert torch.autograd.gradcheck(function, extra.detach().requires_grad_(), atol=1e-6)


# ---------------------------------------------------------------------- the network


@by_process
def test_a_widened_network_begins_with_its_own_prediction(process: Process):
    base = network(0, process).double()
    t = torch.linspace(0.2, 0.9, 5, dtype=torch.float64) * process.t_max
    label = {"label": torch.tensor([0, 1, 2, 3, 0])}
    x = process.add_noise(states(5), states(5, 1), t)
    expected = base(x, t, label).x0
    for family, tolerance in ((DX(5), 1e-9), (GMFlow(3, offset=0.0), 1e-9), (GMFlow(3), None)):
        found = PolicyDenoiser(base, family)(x, t, label).x0
        if tolerance is None:
            assert (found - expected).abs().max() > 1e-5
        else:
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_images_have_a_policy_for_every_pixel_and_other_heads_are_refused():
    student = PolicyDenoiser(UNet(EDM(), num_classes=10), GMFlow(3))
    x, t = torch.randn(2, 1, 8, 8), torch.full((2,), 5.0, dtype=torch.float64)
    policy = student.policy(x, t, {"label": torch.tensor([1, 2])}, 0 * t)
    assert policy.means.shape == (2, 3, 1, 8, 8) and policy.logits.shape == (2, 3, 1, 8, 8)
    assert policy.follow(policy.x_source, policy.t_source, 0 * t, 4)[0].shape == x.shape
    with pytest.raises(UserError, match="last layer gives a sample's own"):
        PolicyDenoiser(DiT(width=48), GMFlow(3), head="blocks.0.attention.out")
    with pytest.raises(UserError, match="does not give patches"):
        PolicyDenoiser(DiT(), GMFlow(3), head="blocks.0.attention.out")(x, t / 10, {})
    with pytest.raises(UserError, match="no layer 'tail'"):
        PolicyDenoiser(MLP(EDM()), GMFlow(3), head="tail")


def test_a_transformer_has_a_policy_for_every_pixel():
    dit = DiT(depth=1).double()
    x, t = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.full((2,), 0.7, dtype=torch.float64)
    student = PolicyDenoiser(dit, GMFlow(2, offset=0.0))
    torch.testing.assert_close(student(x, t, {}).x0, dit(x, t, {}).x0)
    # What token (1, 2) says stands in the rows 2, 3 and the columns 4, 5, each of its four cells in its place.
    outputs = GMFlow(2).outputs(1)
    tokens = torch.zeros(1, 16, dit.width if hasattr(dit, "width") else 64, dtype=torch.float64)
    tokens[0, 1 * 4 + 2, 0] = 1
    with torch.no_grad():
        student.extra.bias.zero_()
        student.extra.weight[:, 0] = 1 + torch.arange(4 * outputs)
    found = student.shaping(tokens)[0]
    assert found.shape == (outputs, 8, 8) and torch.count_nonzero(found) == 4 * outputs
    assert found[0, 2:4, 4:6].flatten().tolist() == [1 + cell * outputs for cell in range(4)]


# ---------------------------------------------------------------------- the method


def built(process: Process, **kwargs) -> PiFlow:
    teacher, student = partial(law, process), partial(network, 1, process)
    method = PiFlow(teacher=teacher, student=student, **({"mixing_updates": 0} | kwargs))
    method.configure_model()
    method.student.double()
    return method


@by_process
@pytest.mark.parametrize("mixing_updates", [0, 100], ids=["student-leads", "teacher-leads"])
def test_the_exact_policy_leaves_nothing_to_imitate(process: Process, mixing_updates: int):
    """With no window the mean velocity is the local one. Where the teacher leads, the exact policy's mean over the
    stretch differs from the teacher's velocity at its begin, the less the shorter it is: the price of the curriculum.
    """
    losses = []
    for asked in (4, 16):
        method = built(
            process, window=0.0, mixing_updates=mixing_updates, states=asked, sampler=PolicySampler(substeps=512)
        )
        start = float(FLOW.time(process.ratio(torch.tensor(process.t_max, dtype=torch.float64))))
        t = torch.full((12,), start, dtype=torch.float64)
        policy = posterior_policy(start * states(), t)
        losses.append(method.imitation(policy, 0 * t, {}, Draws(0, range(12), "train")).item())
    if mixing_updates:
        assert 0 < losses[1] < 0.2 * losses[0], losses
    else:
        assert max(losses) < 1e-16, losses


def test_a_constant_policy_by_hand():
    """With one point pi-Flow regresses the velocity on the teacher's at states of the student's own straight line."""
    method = built(FLOW, policy=DX(1), states=1)
    t = torch.ones(12, dtype=torch.float64)
    u = states(seed=2).requires_grad_()
    policy = method.policy.policy(states(), t, 0 * t, u, torch.zeros(12, 2, dtype=torch.float64))
    draws = Draws(0, range(12), "train")
    loss = method.imitation(policy, 0 * t, {}, draws)
    loss.backward()
    asked = 1 - draws.uniform("cut0")
    teacher = law()(states() - (1 - asked)[:, None] * u.detach(), asked).velocity
    torch.testing.assert_close(loss.item(), 0.5 * (u - teacher).square().mean().item(), rtol=1e-9, atol=0)
    # At a fixed state x the velocity (x - x0) / t moves by t_source / t with u, since x0 = x_source - t_source u.
    expected = (u.detach() - teacher) / u.numel() / asked[:, None]
    torch.testing.assert_close(u.grad, expected, rtol=1e-8, atol=1e-12)


def test_the_teacher_leads_first_and_the_student_later():
    method = built(FLOW, mixing_updates=10)
    shares = []
    for updates in (0, 5, 10, 20):
        method.loaded_updates = updates
        shares.append(method.teacher_share())
    assert shares == [1.0, 0.5, 0.0, 0.0]


@by_process
def test_segments_join_and_data_free_training_reaches_them(process: Process):
    times = [fraction * process.t_max for fraction in (1.0, 0.6, 0.2)]
    method = built(process, sampler=PolicySampler(times))
    assert method.evaluations("student") == 3
    method.request_average("ema")
    label = torch.tensor([0, 1, 2, 0])
    calls: list[float] = []
    method.student.network.register_forward_pre_hook(lambda _, args: calls.append(float(args[1][0])))
    sampler, edges = method.sampler, method.sampler.edges(method.student)
    noise = states(4)
    x = sampler.chain(method.student, noise, {"label": label}, edges)
    assert calls == times and x.shape == (4, 2)
    for stop in (1, 2):
        part = sampler.chain(method.student, noise, {"label": label}, edges[: stop + 1])
        assert part.isfinite().all() and not torch.allclose(part, x)
    seen = set()
    for step in range(12):
        part = MicroBatch(None, {}, Draws(0, range(4), "train", step=step))
        calls.clear()
        loss = method.student_loss(part)["imitation"]
        assert loss.isfinite() and loss.requires_grad
        seen.add(len(calls) - 1)
    assert seen == {0, 1, 2}


# ---------------------------------------------------------------------- the shift


def test_a_piece_of_a_substep_is_a_substep():
    assert [PolicySampler(substeps=10).substeps_of(length) for length in (1.0, 0.31, 0.3, 0.01)] == [10, 4, 3, 1]


def test_a_shift_makes_substeps_and_grids_even_in_the_time_before_it():
    """At shift 3.2 by hand: t = 3.2 r / (1 + 2.2 r), r = t / (3.2 - 2.2 t)."""
    t, s = torch.full((12,), 0.9, dtype=torch.float64), torch.full((12,), 0.4, dtype=torch.float64)
    r = torch.linspace(0.9 / (3.2 - 2.2 * 0.9), 0.4 / (3.2 - 2.2 * 0.4), 5, dtype=torch.float64)
    times = 3.2 * r / (1 + 2.2 * r)
    extra = 0.3 * torch.cat([states(seed=k) for k in (4, 5, 6)], dim=1)
    policy = DX(3, shift=3.2).policy(states(), t, s, states(seed=2), extra)
    on_grid = policy.x0(states(), torch.full((12,), float(times[2]), dtype=torch.float64))
    torch.testing.assert_close(on_grid, policy.points[:, 1], rtol=1e-9, atol=1e-9)
    x, total = states(), 0.0
    for now, then in pairwise(times):
        velocity = policy.velocity(x, torch.full((12,), float(now), dtype=torch.float64))
        x, total = x - (now - then) * velocity, total + (now - then) * velocity
    end, mean = policy.follow(states(), t, s, 4)
    torch.testing.assert_close(end, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mean, total / 0.5, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mean, (states() - end) / 0.5, rtol=1e-9, atol=1e-9)
    plain = DX(3).policy(states(), t, s, states(seed=2), extra)
    assert (plain.follow(states(), t, s, 4)[0] - end).abs().max() > 1e-3


@by_process
def test_segments_of_the_released_flux_students(process: Process):
    """Four calls, shift 3.2, the last segment half as long: raw times 1, 5/7, 3/7, 1/7."""
    method = built(process, policy=DX(2, shift=3.2), sampler=PolicySampler(steps=4, last_segment=0.5))
    raw = torch.tensor([5, 3, 1], dtype=torch.float64) / 7
    flow = 3.2 * raw / (1 + 2.2 * raw)
    first, *found, last = method.sampler.edges(method.student)
    assert first == process.t_max and last == process.t_clean
    found_times = torch.tensor(found, dtype=torch.float64)
    torch.testing.assert_close(found_times, process.time(flow / (1 - flow)), rtol=1e-9, atol=1e-9)
    plain = built(process, policy=DX(2), sampler=PolicySampler(steps=4))
    even = JumpSampler(steps=4).schedule(plain.student)
    assert plain.sampler.edges(plain.student) == [*even, process.t_clean]


def test_the_exact_policy_imitates_at_any_shift():
    """The window is short in unshifted time, so what is left is of its order."""
    method = built(FLOW, policy=GMFlow(3, shift=3.2), states=3, window=1e-4, sampler=PolicySampler(substeps=400))
    t = torch.ones(12, dtype=torch.float64)
    policy = posterior_policy(states(), t)
    object.__setattr__(policy, "shift", 3.2)
    assert method.imitation(policy, 0 * t, {}, Draws(0, range(12), "train")).item() < 1e-5
    for shift in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="GMFlow: shift must be a finite number above 0"):
            GMFlow(shift=shift)
