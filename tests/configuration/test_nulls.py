"""``null`` is refused where an argument must be something, and kept where it may be nothing."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch import Trainer

from fastgen.configuration.declared import arguments_of
from fastgen.configuration.parsing import refuse_nulls
from fastgen.errors import UserError
from fastgen.methods import SCM, PiFlow, SiD

ADAM = {"class_path": "torch.optim.Adam", "init_args": {"eps": None}}
TEACHER = {"class_path": "fastgen.denoisers.MLP", "init_args": {"width": None}}


@pytest.mark.parametrize(
    ("kind", "values", "place"),
    [
        (SiD, {"alpha": None}, "alpha"),
        (SiD, {"student_optimizer": ADAM}, "student_optimizer.init_args.eps"),
        (SiD, {"teacher": TEACHER}, "teacher.init_args.width"),
        (SCM, {"guidance": {"low": None}}, "guidance.low"),
        (SCM, {"guidance": {"high": None}}, "guidance.high"),
        (PiFlow, {"states": None}, "states"),
        (SiD, {"student": None}, "student"),
        (SiD, {"extras": None}, "extras"),
        (SiD, {"renoise_time": None}, "renoise_time"),
        (Trainer, {"overfit_batches": None}, "overfit_batches"),
    ],
)
def test_null_is_refused_where_something_must_stand(kind: type, values: dict[str, Any], place: str):
    with pytest.raises(UserError, match=rf"^{place} must not be null; leave it out for its default \(.+\)\.$"):
        refuse_nulls(values, arguments_of(kind))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (SiD, {"gradient_clip": None, "student_lr_scheduler": None, "teacher": None}),
        (SiD, {"student_optimizer": {**ADAM, "init_args": {"foreach": None}}}),
        (Trainer, {"callbacks": None, "max_time": None, "logger": None}),
    ],
)
def test_null_is_kept_where_nothing_may_stand(kind: type, values: dict[str, Any]):
    refuse_nulls(values, arguments_of(kind))


@pytest.mark.parametrize("value", [[], [1], 3, "x"])
def test_what_is_no_mapping_is_refused_where_one_must_stand(value: Any):
    for name in ("guidance", "schedule"):
        with pytest.raises(UserError, match=rf"^{name} must be a mapping with keys like .+, got .+\.$"):
            refuse_nulls({name: value}, arguments_of(SiD))
