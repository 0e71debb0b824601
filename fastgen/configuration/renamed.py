"""Names that older configurations use, and what stands in their place."""

from __future__ import annotations

CLASSES = {
    "frechet": "is FrechetDistance now",
    "floor": "is FrechetRatio now",
    "kid": "is KernelDistance now",
    "precision_recall": "is PrecisionRecall now",
    "accuracy": "is ClassAccuracy now",
    "duplicates": "is DuplicateRate now",
    "inception_score": "is InceptionScore now",
    "cmmd": "is CMMD now",
    "vendi": "is VendiScore now",
    "HuberForm": "is DistanceForm now, whose metric is an ElementwiseHuber",
}
"""Classes by their old short name."""

OF_TRANSPORT = (
    "is WassersteinDistance's now: write metrics: [{class_path: WassersteinDistance, init_args: {exact_count: N}}, "
    "LawKernelDistance, LawLikelihood, ModeCoverage, LawAccuracy]"
)
OF_MODES = (
    "is ModeCoverage's now: write metrics: [WassersteinDistance, LawKernelDistance, LawLikelihood, {class_path: "
    "ModeCoverage, init_args: {radius: R, found_share: S}}, LawAccuracy]"
)
OF_WEIGHT = "is the weight's now: write weight: {class_path: EDMWeight, init_args: {sigma_data: NUMBER}}"
OF_ERROR = "is the weight's now: write weight: {class_path: AdaptiveWeight, init_args: {c: FLOOR, power: POWER}}"
OF_LOSS = (
    "is called metric now: write metric: SquaredError with scale 0.5 for l2, AbsoluteError for l1, PseudoHuber with "
    "per_element for huber"
)
OPTIONS = {
    ("GAN", "critic_weight"): "is discriminator_weight now",
    ("ImageMetrics", "neighbours"): (
        "is PrecisionRecall's now: write metrics: [FrechetDistance, FrechetRatio, KernelDistance, {class_path: "
        "PrecisionRecall, init_args: {neighbours: K}}, ClassAccuracy]"
    ),
    ("ImageMetrics", "floor_splits"): (
        "is FrechetRatio's now: write metrics: [FrechetDistance, {class_path: FrechetRatio, init_args: {splits: N}}, "
        "KernelDistance, PrecisionRecall, ClassAccuracy]"
    ),
    ("ImageMetrics", "score_splits"): (
        "is InceptionScore's now: write {class_path: InceptionScore, init_args: {splits: N}} into metrics"
    ),
    ("TextImageMetrics", "scores"): "is called metrics now: write metrics: [CLIPScore, ...]",
    ("TextImageMetrics", "diversity"): "stands in metrics now: write metrics: [..., PairwiseLPIPS]",
    ("TextImageMetrics", "alignment"): "stands in metrics now: write metrics: [..., TeacherAlignment]",
    ("TextImageMetrics", "alignment_count"): (
        "is TeacherAlignment's now: write metrics: [..., {class_path: TeacherAlignment, init_args: {count: N}}]"
    ),
    ("MixtureMetrics", "exact_count"): OF_TRANSPORT,
    ("MixtureMetrics", "radius"): OF_MODES,
    ("MixtureMetrics", "found_share"): OF_MODES,
    ("RenoiseSampler", "stochastic"): "is the class now: RenoiseSampler moves by fresh noise, JumpSampler does not",
    ("JumpSampler", "stochastic"): "is the class now: RenoiseSampler moves by fresh noise, JumpSampler does not",
    ("PiFlow", "substeps"): (
        "is the sampler's now: write sampler: {class_path: PolicySampler, init_args: {substeps: N}}"
    ),
    ("PiFlow", "last_segment"): (
        "is the sampler's now: write sampler: {class_path: PolicySampler, init_args: {last_segment: LENGTH}}"
    ),
    ("DenoisingLoss", "sigma_data"): OF_WEIGHT,
    ("TDM", "huber"): "is the metric's now: write metric: {class_path: ElementwiseHuber, init_args: {c: NUMBER}}",
    ("SIMForm", "c"): (
        "is the metric's now: write metric: {class_path: PseudoHuber, init_args: {c: NUMBER, per_element: true}}"
    ),
    ("MeanFlow", "c"): OF_ERROR,
    ("MeanFlow", "power"): OF_ERROR,
    ("KD", "loss"): OF_LOSS,
    ("Reflow", "loss"): OF_LOSS,
    ("DiscreteConsistency", "sigma_data"): OF_WEIGHT,
    ("TokenMMD", "c"): "is the distance's now: write distance: {class_path: MeanGap, init_args: {c: NUMBER}}",
    ("OptimalSteps", "steps"): "is the sampler's now: write sampler: {class_path: GridSampler, init_args: {steps: N}}",
}
"""Options by class and old name."""

SID_WEIGHTS = {
    "distance": "InverseDistance",
    "snr": "{class_path: FlowWeight, init_args: {signal_power: 2, noise_power: -2}}",
    "root_snr": "{class_path: FlowWeight, init_args: {signal_power: 1, noise_power: -1}}",
    "1/sigma": "{class_path: FlowWeight, init_args: {signal_power: 0, noise_power: -1}}",
    "1/sigma^2": "{class_path: FlowWeight, init_args: {signal_power: 0, noise_power: -2}}",
    "1-sigma": "FlowWeight",
    "(1-sigma)^2": "{class_path: FlowWeight, init_args: {signal_power: 2}}",
}
DIVERGENCES = {
    "reverse_kl": "ReverseKL",
    "softened_reverse_kl": "SoftenedReverseKL",
    "jensen_shannon": "JensenShannon",
    "squared_hellinger": "SquaredHellinger",
    "forward_kl": "ForwardKL",
    "jeffreys": "Jeffreys",
    "neyman": "Neyman",
    "chi_square": "ChiSquare",
}
VALUES: dict[tuple[str, str], str | dict[str, str]] = {
    ("FDistill", "divergence"): DIVERGENCES,
    ("UniInstruct", "divergence"): DIVERGENCES,
    ("LogRatio", "divergence"): DIVERGENCES,
    ("MeanFlow", "weight"): {"error": "AdaptiveWeight", "rms": "TangentWeight"},
    ("DenoisingLoss", "weight"): {"edm": "EDMWeight", "one": "UniformWeight", "vp_alpha2": "VPSignalWeight"},
    ("DiscreteConsistency", "weight"): {"step": "StepWeight", "output": "EDMWeight", "one": "UniformWeight"},
    ("Progressive", "weight"): {
        "truncated_snr": "TruncatedSNRWeight",
        "snr_plus_one": "SNRPlusOneWeight",
        "snr": "SNRWeight",
        "one": "UniformWeight",
    },
    ("SiD", "weight"): SID_WEIGHTS,
    ("SiDForm", "omega"): SID_WEIGHTS,
    ("FlowMapDistiller", "target"): (
        "names no EMA callback any more; write target: {class_path: EMATarget, init_args: {rule: RULE}} with the rule "
        "of that callback"
    ),
}
"""Options by class and name that used to be a text: what became of it, or of each word the class that it is now."""


def class_now(name: str) -> str | None:
    """What became of a class, by a name or a dotted path that is none any more."""
    return CLASSES.get(name.rpartition(".")[2])


def option_now(kind: type, name: str) -> str | None:
    """What became of an option of a class that it has no longer."""
    found = (OPTIONS.get((parent.__name__, name)) for parent in kind.__mro__)
    return next((said for said in found if said), None)


def value_now(kind: type, name: str, value: object) -> str | None:
    """What became of a text that an option used to take."""
    if not isinstance(value, str):
        return None
    found = next((VALUES[key] for parent in kind.__mro__ if (key := (parent.__name__, name)) in VALUES), None)
    if isinstance(found, dict):
        return f"is a class now; write {name}: {found[value]} in place of '{value}'" if value in found else None
    return found
