"""Names that older configurations use, and what stands in their place."""

from __future__ import annotations

CLASSES = {
    "StudentSampler": "is RenoiseSampler now, or JumpSampler where it said 'stochastic: false'",
}
"""Classes by their old short name."""

OPTIONS = {
    ("GAN", "critic_weight"): "is discriminator_weight now",
    ("RenoiseSampler", "stochastic"): "is the class now: RenoiseSampler moves by fresh noise, JumpSampler does not",
    ("JumpSampler", "stochastic"): "is the class now: RenoiseSampler moves by fresh noise, JumpSampler does not",
    ("PiFlow", "substeps"): (
        "is the sampler's now: write sampler: {class_path: PolicySampler, init_args: {substeps: N}}"
    ),
    ("PiFlow", "last_segment"): (
        "is the sampler's now: write sampler: {class_path: PolicySampler, init_args: {last_segment: LENGTH}}"
    ),
    ("OptimalSteps", "steps"): "is the sampler's now: write sampler: {class_path: GridSampler, init_args: {steps: N}}",
}
"""Options by class and old name."""


def class_now(name: str) -> str | None:
    """What became of a class, by a name or a dotted path that is none any more."""
    return CLASSES.get(name.rpartition(".")[2])


def option_now(kind: type, name: str) -> str | None:
    """What became of an option of a class that it has no longer."""
    found = (OPTIONS.get((parent.__name__, name)) for parent in kind.__mro__)
    return next((said for said in found if said), None)
