"""The optimizers of the papers are the defaults of their methods, and schedules follow the length of the run."""

from __future__ import annotations

import inspect
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from denoisers.tiny_flux import write_tiny_flux
from denoisers.tiny_sd import write_tiny_pipeline
from denoisers.tiny_sdxl import write_tiny_sdxl
from denoisers.tiny_unet import DiffusersUNet
from torch import nn
from toys import ToyData, build, trainer

import fastgen.methods as methods
from fastgen.denoisers import MLP, Flux, LoRA, StableDiffusion, StableDiffusionXL
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.extras import DistributionMatching
from fastgen.processes import EDM, VP
from fastgen.schedules import Cosine, InverseSquareRoot, Linear

CONFIGS = Path(__file__).parents[2] / "configs"

ADAM, ADAMW, RADAM = torch.optim.Adam, torch.optim.AdamW, torch.optim.RAdam
# role: class, learning rate, betas, weight decay
PUBLISHED: dict[str, dict[str, tuple[type, float, tuple[float, float], float]]] = {
    "SiD": {role: (ADAM, 1e-5, (0.0, 0.999), 0.0) for role in ("student", "critic")},
    "FewStepSiD": {role: (ADAM, 5e-6, (0.0, 0.999), 0.0) for role in ("student", "critic")},
    "DMD2": {role: (ADAMW, 2e-6, (0.9, 0.999), 0.01) for role in ("student", "critic")},
    "DecoupledDMD": {role: (ADAMW, 5e-7, (0.9, 0.999), 0.01) for role in ("student", "critic")},
    "DMD": {role: (ADAMW, 2e-6, (0.9, 0.999), 0.01) for role in ("student", "critic")},
    "SwD": {role: (ADAMW, 5e-6, (0.9, 0.999), 0.01) for role in ("student", "critic")},
    "SenseFlow": {role: (ADAMW, 1e-6, (0.9, 0.999), 0.0) for role in ("student", "critic")},
    "DPDMD": {role: (ADAMW, 1e-5, (0.9, 0.999), 0.0) for role in ("student", "critic")},
    "CDM": {"student": (ADAMW, 1e-5, (0.9, 0.999), 1e-4), "critic": (ADAMW, 5e-6, (0.9, 0.999), 1e-4)},
    "OneXDistill": {"student": (ADAMW, 5e-6, (0.9, 0.999), 1e-4), "critic": (ADAMW, 4e-5, (0.9, 0.999), 1e-4)},
    "FDistill": {role: (ADAMW, 2e-6, (0.9, 0.999), 0.01) for role in ("student", "critic")},
    "DiffInstruct": {role: (ADAM, 1e-5, (0.9, 0.999), 0.0) for role in ("student", "critic")},
    "SwiftBrush": {"student": (ADAM, 1e-6, (0.9, 0.999), 0.0), "critic": (ADAM, 1e-3, (0.9, 0.999), 0.0)},
    "TDM": {"student": (ADAMW, 4e-6, (0.0, 0.95), 0.01), "critic": (ADAMW, 2e-5, (0.0, 0.95), 0.01)},
    "PhasedDMD": {"student": (ADAMW, 2e-6, (0.0, 0.999), 0.01), "critic": (ADAMW, 4e-7, (0.0, 0.999), 0.01)},
    "SelfForcing": {"student": (ADAMW, 2e-6, (0.0, 0.999), 0.01), "critic": (ADAMW, 4e-7, (0.0, 0.999), 0.01)},
    "VideoBLADE": {"student": (ADAMW, 1e-4, (0.0, 0.95), 0.01), "critic": (ADAMW, 5e-4, (0.0, 0.95), 0.01)},
    "StreamDiT": {"student": (ADAMW, 1e-5, (0.9, 0.999), 0.01)},
    "LiveAvatar": {"student": (ADAMW, 1e-5, (0.0, 0.999), 0.01), "critic": (ADAMW, 2e-6, (0.0, 0.999), 0.01)},
    "LiveTalk": {"student": (ADAMW, 4e-6, (0.0, 0.999), 0.01), "critic": (ADAMW, 8e-7, (0.0, 0.999), 0.01)},
    "CausVid": {role: (ADAMW, 2e-6, (0.9, 0.999), 0.01) for role in ("student", "critic")},
    "ODEInitialisation": {"student": (ADAM, 2e-6, (0.9, 0.999), 0.0)},
    "DiffusionForcing": {"student": (ADAMW, 2e-6, (0.0, 0.999), 0.01)},
    "CausalConsistency": {"student": (ADAMW, 2e-6, (0.0, 0.999), 0.01)},
    "GDD": {role: (ADAM, 1e-4, (0.0, 0.99), 0.0) for role in ("student", "discriminator")},
    "CD": {"student": (RADAM, 8e-6, (0.9, 0.999), 0.0)},
    "CT": {"student": (RADAM, 1e-4, (0.9, 0.999), 0.0)},
    "ICT": {"student": (RADAM, 1e-4, (0.9, 0.999), 0.0)},
    "TCM": {"student": (RADAM, 5e-5, (0.9, 0.999), 0.0)},
    "PCM": {"student": (ADAMW, 5e-6, (0.9, 0.999), 1e-3)},
    "TDD": {"student": (ADAMW, 1e-6, (0.9, 0.999), 0.01)},
    "HyperSD": {"student": (ADAMW, 1e-6, (0.9, 0.999), 0.01)},
    "SCott": {"student": (ADAMW, 8e-6, (0.9, 0.999), 0.0)},
    "MCM": {"student": (ADAMW, 5e-6, (0.9, 0.999), 0.0)},
    "SCFlow": {"student": (ADAMW, 2e-5, (0.9, 0.999), 0.0)},
    "TBCM": {"student": (ADAMW, 1e-5, (0.9, 0.999), 0.01)},
    "ECT": {"student": (RADAM, 1e-4, (0.9, 0.999), 0.0)},
    "LCM": {"student": (ADAMW, 1e-6, (0.9, 0.999), 0.0)},
    "SCM": {"student": (RADAM, 1e-4, (0.9, 0.99), 0.0)},
    "MeanFlow": {"student": (ADAM, 1e-4, (0.9, 0.95), 0.0)},
    "IMF": {"student": (ADAM, 1e-4, (0.9, 0.95), 0.0)},
    "AnyFlow": {"student": (ADAMW, 5e-5, (0.9, 0.95), 0.01)},
    "SCFM": {"student": (ADAMW, 2e-5, (0.9, 0.999), 0.01)},
    "TVM": {"student": (ADAMW, 1e-4, (0.9, 0.95), 0.01)},
    "MDTDist": {"student": (ADAMW, 4e-8, (0.9, 0.999), 0.01)},
    "CTM": {"student": (RADAM, 4e-4, (0.9, 0.999), 0.0)},
    "Shortcut": {"student": (ADAMW, 1e-4, (0.9, 0.999), 0.1)},
    "Reflow": {"student": (ADAM, 2e-4, (0.9, 0.999), 0.0)},
    "GET": {"student": (ADAMW, 1e-4, (0.9, 0.999), 0.01)},
    "ArcFlow": {"student": (ADAMW, 5e-5, (0.9, 0.95), 0.01)},
    "RFPP": {"student": (ADAM, 2e-4, (0.9, 0.999), 0.0)},
    "SFD": {"student": (ADAM, 5e-5, (0.9, 0.999), 0.0)},
    "Progressive": {"student": (ADAM, 5e-5, (0.9, 0.999), 0.0)},
    "PiFlow": {"student": (ADAMW, 5e-5, (0.9, 0.95), 0.01)},
    "TeacherTraining": {"student": (ADAM, 1e-3, (0.9, 0.999), 0.0)},
}


def check(made: torch.optim.Optimizer, wanted: tuple[type, float, tuple[float, float], float]) -> None:
    (group,) = made.param_groups
    assert isinstance(made, wanted[0])
    assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == wanted[1:]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_methods_optimizers_are_its_papers(name: str):
    cls = getattr(methods, name)
    network = lambda: None  # noqa: E731  never built
    extra = {"student": network} if name in ("TeacherTraining", "DiffusionForcing") else {"teacher": network}
    method = cls(**extra)
    for role, wanted in PUBLISHED[name].items():
        factories = method.optimizer_factories | {r: m for e in method.each_extra() for r, m in e.optimizers().items()}
        check(factories[role]([nn.Parameter(torch.zeros(1))]), wanted)


def test_the_critic_of_rcm():
    check(DistributionMatching().optimizer([nn.Parameter(torch.zeros(1))]), (ADAMW, 4e-7, (0.0, 0.999), 0.01))


def shown(folder: Path, capsys: pytest.CaptureFixture[str], **model: Any) -> dict[str, Any]:
    """The method in what ``--print_config`` shows; the same comes when that is read again."""
    from fastgen.__main__ import main

    ring = {"class_path": "RingMixture", "init_args": {"process": {"class_path": "EDM"}}}
    model["init_args"] = {"teacher": ring, **model.get("init_args", {})}
    config = folder / "config.yaml"
    config.write_text(
        yaml.safe_dump({"model": model, "data": {"class_path": "Mixture", "init_args": {"distribution": ring}}})
    )
    texts = []
    for _ in range(2):
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(config), "--print_config"])
        texts.append(capsys.readouterr().out)
        config.write_text(texts[-1])
    assert texts[0] == texts[1]
    return yaml.safe_load(texts[0])["model"]["init_args"]


SHOWN = {
    "DMD2": ("BetasAdamW", {"lr": 2e-6, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "decay": 0.01}),
    "FewStepSiD": ("BetasAdam", {"lr": 5e-6, "beta1": 0.0, "beta2": 0.999, "epsilon": 1e-8, "decay": 0.0}),
    "ECT": ("BetasRAdam", {"lr": 1e-4, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}),
}


@pytest.mark.parametrize("name", SHOWN)
def test_print_config_shows_them(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    kind, numbers = SHOWN[name]
    found = shown(tmp_path, capsys, class_path=name)["student_optimizer"]
    assert found == {"class_path": f"fastgen.optimizers.{kind}", "init_args": numbers}


def test_another_class_takes_nothing_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    given = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.5}}
    found = shown(tmp_path, capsys, class_path="DMD2", init_args={"student_optimizer": given})
    found = found["student_optimizer"]["init_args"]
    assert (found["lr"], found["weight_decay"], found["eps"]) == (0.5, 0.0, 1e-8)


def test_swiftbrushs_critic_changes_queries_and_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """VinAIResearch/SwiftBrush: rank 64 and alpha 108 on ``to_q`` and ``to_v`` of every attention layer."""
    critic = shown(tmp_path, capsys, class_path="SwiftBrush")["critic"]
    assert critic["init_args"] == {"rank": 64, "alpha": 108.0, "layers": "*.to_[qv]"}
    network = DiffusersUNet(VP())
    changes = inspect.signature(methods.SwiftBrush).parameters["critic"].default.attach(network).by_path()
    assert set(changes) == {path for path, _ in network.named_modules() if path.endswith((".to_q", ".to_v"))}
    assert len(changes) == 4 * sum(path.endswith(".attn1") for path, _ in network.named_modules()) > 0
    assert all(change.scale == 1.6875 and len(change.down.weight) == 64 for change in changes.values())
    with pytest.raises(UserError, match=r"fits no linear layer .* Say which in layers"):
        LoRA(layers="*.to_q").attach(MLP(EDM()))


# ---------------------------------------------------------------------- schedules


def test_rates_by_hand():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    now = [0]
    cosine = Cosine(optimizer, low=0.1)
    cosine.follow(lambda: now[0], 8)
    for now[0], factor in ((0, 1.0), (2, 0.1 + 0.45 * (1 + math.sqrt(0.5))), (4, 0.55), (8, 0.1), (9, 0.1)):
        cosine.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(2.0 * factor, rel=1e-12)
    assert cosine.state_dict() == {"last_epoch": 5, "warm_up": 0, "length": "max_steps", "low": 0.1}
    linear = Linear(optimizer, warm_up=4)
    linear.follow(lambda: now[0], 12)
    for now[0], factor in ((0, 0.2), (3, 0.8), (4, 1.0), (8, 0.5), (12, 0.0)):
        linear.apply()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(2.0 * factor)
    low = Linear(optimizer, low=0.25)
    low.follow(lambda: now[0], 12)
    for now[0], factor in ((0, 1.0), (6, 0.625), (12, 0.25)):
        low.apply()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(2.0 * factor)
    root = InverseSquareRoot(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0), start=4)
    found = []
    for _ in range(16):
        root.optimizer.step()
        root.step()
        found.append(root.get_last_lr()[0])
    assert found[3] == 2.0 and found[15] == pytest.approx(1.0)
    for bad in ({"warm_up": -1}, {"warm_up": 3, "length": 3}):
        with pytest.raises(UserError, match="warm_up must be"):
            Linear(optimizer, **bad)
    with pytest.raises(UserError, match=r"set trainer\.max_steps above"):
        Linear(optimizer).follow(lambda: 0, -1)


def test_cosine_is_torchs():
    ours, theirs = (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3) for _ in range(2))
    now, schedule = [0], Cosine(ours)
    schedule.follow(lambda: now[0], 50)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=50)
    for now[0] in range(1, 51):
        theirs.step()
        reference.step()
        schedule.step()
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("steps", [4, 8])
def test_every_role_follows_the_runs_length(steps: int):
    """With two critic updates per student update; the critic's last rate is that of the run's end too."""
    method = build(
        methods.DMD2,
        student_lr_scheduler=lambda optimizer: Cosine(optimizer),
        critic_lr_scheduler=lambda optimizer: Linear(optimizer),
        schedule=UpdateSchedule(critic_updates=2),
    )
    rates: dict[str, list[float]] = {"student": [], "critic": []}
    original = method.update

    def update(role: str, parts: Any) -> None:
        rates[role].append(method.optimizer_of(role).param_groups[0]["lr"])
        original(role, parts)

    method.update = update
    run = trainer(2 * steps, max_steps=steps)
    run.fit(method, ToyData())
    first = rates["student"][0]
    wanted = [0.5 * (1 + math.cos(math.pi * k / steps)) for k in range(steps)]
    assert [rate / first for rate in rates["student"]] == pytest.approx(wanted)
    assert rates["critic"][-1] / rates["critic"][0] == pytest.approx(1 / steps, abs=1.01 / steps)


def test_a_critic_that_goes_first_has_the_students_rate():
    """As torch's schedule with a length of its own, bit for bit but for rounding."""
    steps, weights = 4, []
    for schedule in (Cosine, partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps)):
        method = build(methods.SiD, student_lr_scheduler=schedule, critic_lr_scheduler=schedule)
        trainer(steps, max_steps=steps, precision="64-true").fit(method, ToyData())
        weights.append(method.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------- sampling times


def test_rcm_calls_where_the_model_of_its_size_does():
    """Noise level 80 for Wan 1.3B (200 is the 14B's), then the angles 1.5, 1.4 and 1.0 (arXiv 2510.08431)."""
    arguments = yaml.safe_load((CONFIGS / "rcm_wan.yaml").read_text(encoding="utf-8"))["model"]["init_args"]
    assert "1.3B" in arguments["teacher"]["init_args"]["pretrained"] and arguments["warmup"] == 1000
    levels = [80.0, math.tan(1.5), math.tan(1.4), math.tan(1.0)]
    times = arguments["sampler"]["init_args"]["times"]
    assert times == [pytest.approx(level / (1.0 + level), abs=5e-4) for level in levels]


# ---------------------------------------------------------------------- negative prompts


@pytest.mark.parametrize("name", ["sd15", "sdxl", "flux"])
def test_a_negative_prompt_is_what_guidance_leads_away_from(name: str, tmp_path: Path):
    write, kind, options = {
        "sd15": (write_tiny_pipeline, StableDiffusion, {}),
        "sdxl": (write_tiny_sdxl, StableDiffusionXL, {}),
        "flux": (write_tiny_flux, Flux, {"resolution": 16, "max_tokens": 8}),
    }[name]
    folder = str(write(tmp_path))
    denoiser = kind(folder, negative_prompt="bad dog", **options)
    condition = denoiser.make_codec().encode_condition({"prompt": ["a cat", "a dog"]})
    said = kind(folder, **options).make_codec().encode_condition({"prompt": ["bad dog", "bad dog"]})
    plain = kind(folder, **options).make_codec().encode_condition({"prompt": ["a cat", "a dog"]})
    null = denoiser.null_condition(condition)
    for entry in ("prompt_embeds", "pooled_prompt_embeds"):
        if entry in condition:
            torch.testing.assert_close(null[entry], said[entry], rtol=0, atol=1e-5)
            assert not torch.allclose(null[entry], plain[f"null_{entry}"], atol=1e-3)
    empty = kind(folder, negative_prompt="", **options).make_codec().encode_condition({"prompt": ["a cat"]})
    assert empty["null_prompt_embeds"].any(), "an empty text is a text; SDXL's own null is zeros"
