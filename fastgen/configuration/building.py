"""Errors of other libraries while something is built from a config: the config's fault, told as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastgen.errors import UserError
from fastgen.messages import cause_of

FROM_ARGUMENTS = (ArithmeticError, ImportError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""What constructors raise for arguments that they cannot take.

An AttributeError or AssertionError is a bug of ours, and the system's refusals have sentences of their own.
"""


@contextmanager
def building(what: str, mend: str = "change its arguments") -> Iterator[None]:
    """Errors inside come from the arguments of ``what``; a training step is no place for this.

    Raises:
        UserError: Instead of them, with the innermost cause and ``mend``.
    """
    try:
        yield
    except UserError:
        raise
    except FROM_ARGUMENTS as error:
        cause = cause_of(error).replace("NoneType", "null")  # as it is written in a config
        raise UserError(f"{what} cannot be built ({cause}); {mend}.") from error
