"""What a type hint lets stand at a place of a configuration."""

from typing import Any

import pytest

from fastgen.configuration.declared import slot_of
from fastgen.configuration.diagnosis import in_hint
from fastgen.times import TimeLaw


@pytest.mark.parametrize("hint", [Any, object, Any | None, "forward"])
def test_a_hint_that_says_nothing_is_open_and_holds_no_class(hint: Any):
    """Any is a class since Python 3.11, though nothing is built from it."""
    assert slot_of(hint).open and not slot_of(hint).classes
    assert not list(in_hint(1, hint, "threads"))


def test_a_class_is_not_open():
    assert slot_of(TimeLaw).classes == (TimeLaw,) and not slot_of(TimeLaw).open
    assert list(in_hint(1, TimeLaw, "model.init_args.time"))
