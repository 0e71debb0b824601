"""What each method is given beside the networks; a method without an entry runs with its defaults.

A recipe is the arguments of ``configs/`` in terms of the problem and of the number of student updates, which follows
from the budget.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fastgen.methods
from benchmarks.oracle.problems import Config, Problem, part
from fastgen.methods import Distiller

Arguments = Callable[[Problem, int], Config]

START = "START"
"""Stands for the file of the start network."""


@dataclass(frozen=True)
class Recipe:
    """How a method is trained.

    Attributes:
        method: Class name.
        arguments: ``(problem, updates) -> init_args`` beside what every method gets (see ``model``).
        steps: Numbers of calls to report; ``None`` for as many as it is trained for at the time (progressive stages).
        levels: ``(problem) -> noise levels`` of four calls, if calls are made at chosen levels; without them the method
            chooses its times.
        teacher_network: The start network is the teacher, for methods that read features of it or adapt it.
        process: Process of the student.
        pairs: Part of the budget that the solver spends on noise-sample pairs first.
        most_updates: Limit, for searches that are over soon.
        without: Names of problems that it cannot serve, with the reason.
    """

    method: str
    arguments: Arguments = lambda problem, updates: {}
    steps: tuple[int, ...] | None = (1, 2, 4)
    levels: Callable[[Problem], tuple[float, ...]] | None = None
    teacher_network: bool = False
    process: str = "EDM"
    pairs: float = 0.0
    most_updates: int | None = None
    without: tuple[tuple[str, str], ...] = ()


def adam(lr: float, *betas: float) -> Config:
    return part("torch.optim.Adam", lr=lr, **({"betas": list(betas)} if betas else {}))


def cosine(updates: int) -> Config:
    return part("torch.optim.lr_scheduler.CosineAnnealingLR", T_max=updates)


def everywhere(problem: Problem) -> Config:
    """Layers of adapters: the miniature has few of attention, the default there."""
    return {"layers": "*"} if problem.name == "text" else {}


def two_parts(problem: Problem) -> Config:
    """Who of two students knows which condition."""
    known = {"text": part("PromptRouter", prompts=["a dog", "a car"])}
    return known.get(problem.name, part("LabelRouter", parts=2))


def one_call(problem: Problem) -> Config:
    """One call at the level from which score distillation generates."""
    return part("RenoiseSampler", times=[problem.levels[0]])


def from_high(problem: Problem) -> tuple[float, ...]:
    """The levels of consistency models."""
    return (problem.high, *problem.levels[1:])


def own_levels(problem: Problem) -> tuple[float, ...]:
    """The levels of score distillation."""
    return problem.levels


def scores(problem: Problem, lr: float = 1.0, critic_lr: float = 2.0, **more: Any) -> Config:
    """What score distillation has in common; learning rates in units of the problem's."""
    unit = {"ring": 1e-3, "guided": 1e-3}.get(problem.name, 3e-4)
    return {
        "sampler": one_call(problem),
        "critic_time": part("LogNormalLevel"),
        "critic_objective": part("DenoisingLoss", weight=part("EDMWeight", sigma_data=problem.sigma_data)),
        "guidance": {"teacher": problem.guidance, "critic": 1.0, "critic_training": 1.0, "condition_dropout": 0.0},
        "student_optimizer": adam(lr * unit, 0.0, 0.999),
        "critic_optimizer": adam(critic_lr * unit, 0.0, 0.999),
    } | more


def summed(problem: Problem) -> Config:
    return part("DenoisingLoss", weight=part("EDMWeight", sigma_data=problem.sigma_data), reduction="sum")


def four_calls(problem: Problem) -> Config:
    return part("RenoiseSampler", times=list(problem.levels))


def f_distill(problem: Problem, updates: int) -> Config:
    gan = part("GAN", features="teacher", at_scores=True, discriminator_weight=1.0, optimizer=adam(2e-3, 0.0, 0.999))
    return scores(problem, schedule={"critic_updates": 1}, extras=[gan])


def sida(problem: Problem, updates: int) -> Config:
    start = updates // 10
    return scores(problem, critic_objective=summed(problem)) | {
        "discriminator_weight": 0.1 if problem.sigma_data > 0.8 else 4.0,  # beside a sum over 2 or 64 elements
        "gan_start": start,
        "schedule": {"critic_first": True, "student_start": start},
    }


def disback(problem: Problem, updates: int) -> Config:
    sixteenth = max(1, updates // 16)
    way = {"degradation": 4 * sixteenth, "snapshots": 4, "interval": sixteenth}
    return scores(problem, schedule={"critic_updates": 1}) | way


def adm(problem: Problem, updates: int) -> Config:
    return scores(problem, lr=0.3) | {"discriminator_optimizer": adam(2e-3, 0.0, 0.999)}


def judged(problem: Problem, updates: int, **more: Any) -> Config:
    """What adversarial methods on the teacher's features have in common."""
    return {
        "sampler": one_call(problem),
        "student_optimizer": adam(3e-4, 0.0, 0.99),
        "discriminator_optimizer": adam(1e-3, 0.0, 0.99),
    } | more


def sdxs(problem: Problem, updates: int) -> Config:
    parts = {"warmup": updates // 4, "fade": max(1, updates // 4), "threshold": 0.6}
    return scores(problem, solver=part("Euler", steps=12, guidance=problem.guidance)) | parts


def real_uid(problem: Problem, updates: int) -> Config:
    given = scores(problem, alpha=0.94, beta=0.96, schedule={"critic_updates": 1})
    del given["critic_objective"]
    return given | {"renoise_time": part("LogNormalLevel", mean=-0.5), "critic_time": part("LogNormalLevel", mean=-0.5)}


def gdd(problem: Problem, updates: int) -> Config:
    own: Config = {}
    if problem.network["class_path"] == "UNet":
        own = {"frozen": ["*.conv_in.*", "*.conv_out.*"], "layers": ["down.0.0", "mid", "up.1.0"]}
    return own | {
        "sampler": one_call(problem),
        "student_optimizer": adam(3e-4, 0.0, 0.99),
        "discriminator_optimizer": adam(3e-4, 0.0, 0.99),
    }


def regression(problem: Problem, updates: int, **more: Any) -> Config:
    return {
        "solver": part("Heun", steps=18, guidance=problem.guidance),
        "student_optimizer": adam(2e-3),
        "student_lr_scheduler": cosine(updates),
    } | more


def level_law(problem: Problem) -> Config:
    """Noise levels at which consistency is learned, up to ``high``."""
    return part("LogNormalLevel", mean=0.0 if problem.sigma_data > 0.8 else -0.5, std=1.6)


def teacher_guidance(problem: Problem) -> Config:
    """One scale, of which the student is not told; what is left out would be the method's own default."""
    return {"low": problem.guidance, "high": "low", "embedded": False, "sampling": "middle"}


def ect(problem: Problem, updates: int) -> Config:
    # Data know no guidance: there the teacher's step is what leads (ECD).
    guided = {} if problem.guidance == 1.0 else {"transition": part("TeacherStep")}
    return guided | {
        "times": part("EasyTimes", double=max(1, updates // 8), law=level_law(problem)),
        "metric": part("PseudoHuber", c=0.5),
        "guidance": teacher_guidance(problem),
        "student_optimizer": adam(5e-4),
        "student_lr_scheduler": cosine(updates),
    }


def lcm(problem: Problem, updates: int) -> Config:
    return {
        # The default, nearly the absolute error, finds medians instead of means.
        "metric": part("ElementwiseHuber", c=1.0),
        "times": part("GridTimes", steps=18),
        "weight": part("StepWeight"),  # with 1 the low levels of EDM's grid hardly learn
        "guidance": teacher_guidance(problem),
        "target": part("EMATarget", rule=part("ConstantEMA", decay=0.95)),
        "student_optimizer": adam(5e-4),
        "student_lr_scheduler": cosine(updates),
    }


def scm(problem: Problem, updates: int) -> Config:
    return {
        "warmup": updates // 6,
        "times": part("ToData", law=level_law(problem)),
        "guidance": teacher_guidance(problem),
        "student_optimizer": adam(2e-4),  # normalised tangents do not shrink: keep it low
        "student_lr_scheduler": cosine(updates),
    }


def mean_flow(problem: Problem, updates: int) -> Config:
    return {
        "velocity": part("TeacherVelocity"),
        "guidance": teacher_guidance(problem),
        "times": part("SortedTimes", law=part("LogitNormalTime", mean=0.4, std=1.6), diagonal=0.25, to_data=0.25),
        "sampler": part("JumpSampler", level=10.0),
        "student_optimizer": adam(5e-4),
        "student_lr_scheduler": cosine(updates),
    }


def self_distillation(problem: Problem, updates: int, **more: Any) -> Config:
    return {
        "velocity": part("TeacherVelocity"),
        "guidance": teacher_guidance(problem),
        "times": part("SortedTimes", law=part("FlowTime", low=0.01), diagonal=0.5, middle=None),
        "sampler": part("JumpSampler", level=10.0),
        "learned_weight": False,
        "student_optimizer": adam(1e-3),
        "student_lr_scheduler": cosine(updates),
    } | more


def rcm(problem: Problem, updates: int) -> Config:
    given = scores(problem)
    score_term = {
        "weight": 1.0,
        "critic_updates": 1,
        "critic": problem.student(START),
        "sampler": one_call(problem),
    } | {name: given[name] for name in ("critic_time", "critic_objective", "guidance", "critic_optimizer")}
    return scm(problem, updates) | {"learned_weight": False, "extras": [part("DistributionMatching", **score_term)]}


def shortcut(problem: Problem, updates: int) -> Config:
    guided = {} if problem.guidance == 1.0 else {"guidance_scale": problem.guidance, "condition_dropout": 0.1}
    return guided | {
        "times": part("DyadicTimes", bootstrap=0.5),
        "target": part("EMATarget", rule=part("ConstantEMA", decay=0.995)),
        "student_optimizer": adam(1e-3),
        "student_lr_scheduler": cosine(updates),
    }


def tdm(problem: Problem, updates: int) -> Config:
    given = scores(
        problem,
        lr=0.4,
        sampler=part("TrajectorySampler", times=list(problem.levels)),
        metric=part("ElementwiseHuber", c=1.0),
    )
    del given["critic_time"], given["critic_objective"]
    return given


def dmd(problem: Problem, updates: int) -> Config:
    solver = {"solver": part("Heun", steps=18, guidance=problem.guidance)}
    return solver | scores(problem, extras=[part("PairedRegression")])


def sense_flow(problem: Problem, updates: int) -> Config:
    guidance = part("IntraSegmentGuidance", low=problem.guidance, high=problem.guidance)
    return scores(
        problem,
        schedule={"critic_updates": 1},
        sampler=four_calls(problem),
        data_share=0.5 if problem.guidance == 1.0 else 0.0,  # data know no guidance
        extras=[part("ImplicitAlignment", decay=0.98), guidance],
    )


def dp_dmd(problem: Problem, updates: int) -> Config:
    anchor = part("FirstStepAnchor", solver=part("Euler", steps=18, guidance=problem.guidance), anchor=6)
    sampler = part("JumpSampler", times=list(problem.levels), stop="last", gradient_calls=3)
    return scores(
        problem,
        schedule={"critic_updates": 1},
        sampler=sampler,
        renoise_time=part("UniformTime"),
        extras=[anchor],
    )


def cdm(problem: Problem, updates: int) -> Config:
    sampler = part("RandomScheduleSampler", times=list(problem.levels), longest=8)
    return scores(problem, sampler=sampler, critic_time=part("UniformTime"))


def one_x_distill(problem: Problem, updates: int) -> Config:
    form = part("ColumnHuberForm", base=100.0)  # so few elements that c would be nothing
    given = scores(problem, lr=0.4, sampler=part("TrajectorySampler", times=list(problem.levels)), form=form)
    del given["critic_time"]
    return given | {"guided_below": 0.6}


def sd35_flash(problem: Problem, updates: int) -> Config:
    given = scores(problem, schedule={"critic_updates": 1}, sampler=part("JumpSampler", times=list(problem.levels)))
    del given["critic_time"]
    return given


def swd(problem: Problem, updates: int) -> Config:
    return scores(
        problem,
        schedule={"critic_updates": 1},
        sampler=part("ScaleSampler", times=list(problem.levels)),
        renoise_time=part("UniformTime"),
        extras=[part("TokenMMD", weight=0.1, features="critic")],
    )


def k_dmd(problem: Problem, updates: int) -> Config:
    """The few-step teacher is the teacher, which at high noise knows only means: it counts little."""
    return scores(problem, sampler=four_calls(problem), extras=[part("FewStepTeacher", weight=0.01)])


def amd(problem: Problem, updates: int) -> Config:
    guidance = {"teacher": max(problem.guidance, 1.5), "critic": 1.0, "critic_training": 1.0, "condition_dropout": 0.0}
    given = scores(problem, schedule={"critic_updates": 1}, reward=part("DigitLogProbability"))
    return given | {"guidance": guidance}


def phased_dmd(problem: Problem, updates: int) -> Config:
    first = max(1, updates // 2)
    given = scores(
        problem,
        schedule={"critic_updates": 1},
        sampler=part("PhasedSampler", times=list(problem.levels), phases=2),
        phase_updates=[first, max(1, updates - first)],
    )
    del given["critic_time"]
    return given


NO_GUIDANCE = (("guided", "learns from data alone, which know no guidance"),)
UNJUDGED = tuple((name, "has no judge of its samples") for name in ("ring", "guided", "images", "text"))
UNGUIDED = tuple((name, "is DMD2 where nothing is guided") for name in ("ring", "images", "digits"))
NO_CLIPS = tuple((name, "has no clips") for name in ("ring", "guided", "images", "digits", "text"))
OF_CLIPS = (
    "ASD",
    "BufferedForcing",
    "StreamDiT",
    "VideoBLADE",
    "CausVid",
    "CausalConsistency",
    "DiffusionForcing",
    "LiveAvatar",
    "LiveTalk",
    "MatrixGame",
    "MotionStream",
    "ODEInitialisation",
    "Salt",
    "SelfForcing",
    "TeacherForcing",
    "VDOT",
)
"""Methods of causal students; configs/*_clips.yaml show that they learn."""

RECIPES: dict[str, Recipe] = {
    **{name: Recipe(name, without=NO_CLIPS) for name in OF_CLIPS},
    "RewardForcing": Recipe("RewardForcing", lambda p, n: {"reward": part("MotionEnergy")}, without=NO_CLIPS),
    "SeverallyGuided": Recipe(
        "SeverallyGuided", lambda p, n: {"scales": part("NestedScales", scales={"label": 1.0})}, without=NO_CLIPS
    ),
    # The control: the budget spent on more denoising, sampled by the solver.
    "TeacherTraining": Recipe(
        "TeacherTraining",
        lambda p, n: {
            "objective": part("DenoisingLoss", weight=part("EDMWeight", sigma_data=p.sigma_data)),
            "solver": part("Euler", guidance=p.guidance),
            "student_optimizer": adam(1e-3),
            "student_lr_scheduler": cosine(n),
        },
    ),
    "OptimalSteps": Recipe(
        "OptimalSteps",
        lambda p, n: {
            "student": part("CopyOfTeacher"),
            "sampler": part("GridSampler", steps=4),
            "fine_steps": 50,
            "solver": part("Euler", guidance=p.guidance),
        },
        steps=(4,),
        most_updates=4,
    ),
    "Bespoke": Recipe(
        "Bespoke",
        lambda p, n: {
            "student": part("CopyOfTeacher"),
            "sampler": part("BespokeSampler", steps=4, order=2),
            "solver": part("Heun", guidance=p.guidance),
            "student_optimizer": adam(1e-2),
            "student_lr_scheduler": cosine(n),
        },
        steps=(4,),
    ),
    "DODE": Recipe(
        "DODE",
        lambda p, n: {"student": part("CopyOfTeacher"), "solver": part("Euler", guidance=p.guidance)},
        steps=(4,),
        most_updates=4,
    ),
    "DMD2": Recipe("DMD2", lambda p, n: scores(p, schedule={"critic_updates": 1}), steps=(1,)),
    "DMD2, 4 steps": Recipe(
        "DMD2",
        lambda p, n: scores(p, schedule={"critic_updates": 1}, sampler=four_calls(p)),
        levels=own_levels,
    ),
    "DecoupledDMD": Recipe(
        "DecoupledDMD", lambda p, n: scores(p, schedule={"critic_updates": 1}), steps=(1,), without=UNGUIDED
    ),
    "DiffInstruct": Recipe("DiffInstruct", lambda p, n: scores(p, critic_objective=summed(p)), steps=(1,)),
    "SwiftBrush": Recipe(
        "SwiftBrush",
        lambda p, n: scores(p, critic_lr=5.0, critic=part("LoRA", rank=32, **everywhere(p))),
        steps=(1,),
        teacher_network=True,
    ),
    "FDistill": Recipe("FDistill", f_distill, steps=(1,), teacher_network=True),
    "SiD": Recipe("SiD", lambda p, n: scores(p, alpha=1.0, critic_objective=summed(p)), steps=(1,)),
    "FewStepSiD": Recipe(
        "FewStepSiD",
        lambda p, n: scores(
            p,
            lr=0.5,
            weight=part("InverseDistance"),
            sampler=four_calls(p),
            renoise_time=part("KarrasLevel", low=0.0, high=0.8),
            critic_objective=summed(p),
        ),
        levels=own_levels,
    ),
    "SiDA": Recipe("SiDA", sida, steps=(1,), without=NO_GUIDANCE),
    "UniInstruct": Recipe("UniInstruct", sida, steps=(1,), without=NO_GUIDANCE),
    "SIM": Recipe("SIM", lambda p, n: scores(p, critic_objective=summed(p)), steps=(1,)),
    "RealUID": Recipe("RealUID", real_uid, steps=(1,), without=NO_GUIDANCE),
    "TDM": Recipe("TDM", tdm, steps=(4,)),
    "PhasedDMD": Recipe("PhasedDMD", phased_dmd, steps=(4,)),
    "DMD": Recipe("DMD", dmd, steps=(1,), pairs=0.2),
    "SenseFlow": Recipe("SenseFlow", sense_flow, levels=own_levels),
    "DPDMD": Recipe("DPDMD", dp_dmd, steps=(4,)),
    "CDM": Recipe("CDM", cdm, steps=(4,)),
    "OneXDistill": Recipe("OneXDistill", one_x_distill, steps=(4,)),
    "SwD": Recipe("SwD", swd, steps=(4,), without=NO_GUIDANCE),
    "KDMD": Recipe("KDMD", k_dmd, levels=own_levels),
    "AMD": Recipe("AMD", amd, steps=(1,), without=UNJUDGED),
    "SD35Flash": Recipe("SD35Flash", sd35_flash, steps=(4,)),
    "EMD": Recipe(
        "EMD",
        lambda p, n: scores(p, corrector=part("Langevin", steps=4, noise_step=0.16, latent_step=1e-4)),
        steps=(1,),
    ),
    "SGMD": Recipe("SGMD", lambda p, n: scores(p, residual=0.02), steps=(1,)),
    "DataForcing": Recipe(
        "DataForcing",
        lambda p, n: scores(p, schedule={"critic_updates": 1}, probability=0.05, pairing="unpaired", space="score"),
        steps=(1,),
    ),
    "DisBack": Recipe("DisBack", disback, steps=(1,), teacher_network=True),
    "DMD2 with EL": Recipe(
        "DMD2", lambda p, n: scores(p, schedule={"critic_updates": 1}, extras=[part("EL", depth=2)]), steps=(1,)
    ),
    "ADM": Recipe("ADM", adm, steps=(1,), teacher_network=True),
    "ADP": Recipe(
        "ADP",
        lambda p, n: judged(p, n, solver=part("Heun", steps=18, guidance=p.guidance), feature_time=level_law(p)),
        steps=(1,),
        teacher_network=True,
        pairs=0.4,
    ),
    "LADD": Recipe(
        "LADD",
        lambda p, n: judged(p, n, sampler=four_calls(p), time=part("LogNormalLevel", mean=-0.5, std=1.0)),
        levels=own_levels,
        teacher_network=True,
        without=NO_GUIDANCE,
    ),
    "ADD": Recipe(
        "ADD",
        lambda p, n: judged(
            p,
            n,
            sampler=four_calls(p),
            time=part("LogNormalLevel"),
            guidance=p.guidance,
            backbones=[part("DigitsBackbone")],
            augment=False,
        ),
        levels=own_levels,
        without=(
            ("ring", "judges images"),
            ("guided", "judges images"),
            ("text", "has no backbone but that of digits"),
        ),
    ),
    "WithoutDistillation": Recipe(
        "WithoutDistillation",
        lambda p, n: judged(p, n, time=part("LogNormalLevel", mean=-0.5), divergence=part("JensenShannon")),
        steps=(1,),
        teacher_network=True,
        without=NO_GUIDANCE,
    ),
    "MSD": Recipe(
        "MSD",
        lambda p, n: scores(p, schedule={"critic_updates": 1}, router=two_parts(p)),
        steps=(1,),
        without=(("ring", "has no labels to part"), ("images", "has no labels to part")),
    ),
    "TSM": Recipe(
        "TSM",
        lambda p, n: {
            "objective": part("DenoisingLoss", weight=part("EDMWeight", sigma_data=p.sigma_data)),
            "guidance": p.guidance,
            "solver": part("Euler", steps=18),
            "student_optimizer": adam(1e-3),
            "student_lr_scheduler": cosine(n),
        },
    ),
    "WaDi": Recipe(
        "WaDi",
        lambda p, n: scores(
            p,
            lr=3.0,
            critic_lr=10.0,
            student=part("LoRaD", rank=32, layers="*"),
            critic=part("LoRaD", rank=32, layers="*"),
        ),
        steps=(1,),
        teacher_network=True,
    ),
    "SDXS": Recipe("SDXS", sdxs, steps=(1,), teacher_network=True),
    "GDD": Recipe("GDD", gdd, steps=(1,), teacher_network=True, without=NO_GUIDANCE),
    "KD": Recipe("KD", regression, steps=(1,), pairs=0.4),
    "Reflow": Recipe("Reflow", regression, process="RectifiedFlow", pairs=0.4),
    "Progressive": Recipe(
        "Progressive",
        lambda p, n: regression(
            p, max(1, n // 4), steps=[8, 4, 2, 1], stage_updates=max(1, n // 4), student_optimizer=adam(1e-3)
        ),
        steps=None,
    ),
    "PiFlow": Recipe(
        "PiFlow",
        lambda p, n: regression(
            p,
            n,
            **({"head": "unet.conv_out"} if p.name == "text" else {}),
            policy=part("GMFlow", components=8),
            sampler=part("PolicySampler", substeps=64),
            mixing_updates=n // 3,
            loss_scale=60.0,
            gradient_clip=10.0,
        ),
        steps=(1,),
    ),
    "ECT": Recipe("ECT", ect, levels=from_high),
    "LCM": Recipe("LCM", lcm, levels=from_high),
    "SCM": Recipe("SCM", scm, levels=from_high),
    "rCM": Recipe("SCM", rcm, levels=from_high),
    "MeanFlow": Recipe("MeanFlow", mean_flow, process="RectifiedFlow"),
    "LSD": Recipe("LSD", self_distillation, process="RectifiedFlow"),
    "PSD": Recipe("PSD", self_distillation, process="RectifiedFlow"),
    "Shortcut": Recipe("Shortcut", shortcut, process="RectifiedFlow"),
}


def concrete() -> list[type[Distiller]]:
    """Every method that the library names."""
    found = [cls for cls in vars(fastgen.methods).values() if inspect.isclass(cls) and issubclass(cls, Distiller)]
    return [cls for cls in found if cls is not Distiller and not inspect.isabstract(cls)]


def all_recipes() -> dict[str, Recipe]:
    """The recipes, and for methods without one their defaults."""
    methods = {cls.__name__ for cls in concrete()}
    known = {recipe.method for recipe in RECIPES.values()}
    return {name: r for name, r in RECIPES.items() if r.method in methods} | {
        name: Recipe(name) for name in sorted(methods - known)
    }


def class_of(name: str) -> type[Distiller]:
    return next(cls for cls in concrete() if cls.__name__ == name)


def accepted(cls: type[Distiller]) -> set[str]:
    """Names of all constructor arguments, with those that travel through ``**kwargs``."""
    return {
        name
        for base in cls.__mro__
        if issubclass(base, Distiller) and "__init__" in vars(base)
        for name in inspect.signature(base.__init__).parameters
    }


def model(recipe: Recipe, problem: Problem, start: str | None, updates: int) -> Config:
    """The method as YAML would give it: teacher, networks and optimizers that it knows, and its recipe."""
    cls = class_of(recipe.method)
    network = problem.student(start)
    common = {
        "teacher": network if recipe.teacher_network else problem.teacher,
        "student": problem.student(start, recipe.process),
        "critic": network,
        "student_optimizer": adam(problem.lr),
        "critic_optimizer": adam(problem.lr),
        "sigma_data": problem.sigma_data,
    }
    known = accepted(cls)
    given = {name: value for name, value in common.items() if name in known}
    return part(recipe.method, **(given | started(recipe.arguments(problem, updates), start)))


def started(value: Any, start: str | None) -> Any:
    """A recipe with the file of the start network in it."""
    if isinstance(value, dict):
        return {name: started(inner, start) for name, inner in value.items()}
    return [started(inner, start) for inner in value] if isinstance(value, list) else start if value == START else value
