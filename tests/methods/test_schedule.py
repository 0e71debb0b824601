import pytest

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.networks.mlp import MLP
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.methods import DMD2, SiD
from fastgen.objectives.score_forms import SiDForm
from fastgen.processes import EDM, VP
from fastgen.times import KarrasLevel, LogNormalLevel, UniformTime

S, C = ("student",), ("critic",)
FIRST, AFTER = ("critic", "student"), ("student", "critic")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (UpdateSchedule(), [FIRST] * 7),
        (UpdateSchedule(critic_first=False), [AFTER] * 7),
        (UpdateSchedule(critic_updates=3), [FIRST, C, C, FIRST, C, C, FIRST]),
        (UpdateSchedule(critic_updates=3, critic_first=False), [AFTER, C, C, AFTER, C, C, AFTER]),
        (UpdateSchedule(exclusive=True), [S, C, S, C, S, C, S]),
        (UpdateSchedule(critic_updates=2, exclusive=True), [S, C, C, S, C, C, S]),
        (UpdateSchedule(student_start=2), [C, C, FIRST, FIRST, FIRST, FIRST, FIRST]),
        (UpdateSchedule(critic_updates=2, student_start=3), [C, C, C, FIRST, C, FIRST, C]),
        (UpdateSchedule(critic_updates=2, student_start=1, exclusive=True), [C, S, C, C, S, C, C]),
    ],
)
def test_turns(schedule: UpdateSchedule, expected: list[tuple[str, ...]]):
    assert [schedule.turns(i) for i in range(7)] == expected


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("updates", [1, 4, 5])
def test_the_critic_gets_its_updates_per_student_update(updates: int, exclusive: bool):
    schedule = UpdateSchedule(critic_updates=updates, exclusive=exclusive)
    turns = [role for i in range(10 * (updates + exclusive)) for role in schedule.turns(i)]
    assert turns.count("student") == 10 and turns.count("critic") == 10 * updates


@pytest.mark.parametrize(("name", "value"), [("critic_updates", 0), ("student_start", -1)])
def test_numbers_out_of_range(name: str, value: int):
    with pytest.raises(UserError, match=name):
        UpdateSchedule(**{name: value})


def nothing() -> Denoiser:
    raise AssertionError("nothing is built")


def test_the_levels_of_dmd2():
    method = DMD2(teacher=nothing)
    for law, low, high in ((method.renoise_time, 0.02, 0.98), (method.critic_time, 0.0, 1.0)):
        assert isinstance(law, UniformTime) and (law.low, law.high) == (low, high)


def test_the_levels_of_sid():
    method = SiD(teacher=nothing)
    law = method.renoise_time
    assert isinstance(law, KarrasLevel) and (law.low, law.high) == (0.0, 0.8)
    assert (law.sigma_min, law.sigma_max, law.rho) == (0.002, 80.0, 7.0)
    assert method.sampler.schedule(MLP(EDM())) == [2.5]
    assert method.sampler.schedule(MLP(VP()))[0] == pytest.approx(625, abs=0.5)  # init_timestep of SiD-LSG


def test_the_constants_of_sid():
    sid = SiD(teacher=nothing)
    assert sid.form == SiDForm(alpha=1.2, scale=100.0)
    assert isinstance(sid.critic_time, LogNormalLevel) and (sid.critic_time.mean, sid.critic_time.std) == (-1.2, 1.2)


def test_the_schedules_of_the_papers():
    dmd2, sid = DMD2(teacher=nothing), SiD(teacher=nothing)
    # The student's update comes first and its samples are the critic's (arXiv 2405.14867 and its code).
    assert [dmd2.turns(i) for i in range(6)] == [AFTER, C, C, C, C, AFTER] and dmd2.schedule.reuse_rollout
    # The critic comes first, on fresh samples (arXiv 2404.04057 and its code).
    assert [sid.turns(i) for i in range(3)] == [FIRST] * 3 and not sid.schedule.reuse_rollout
