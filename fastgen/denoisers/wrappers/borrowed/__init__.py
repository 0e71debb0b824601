"""Networks of other owners, beside what is one's own."""

from fastgen.denoisers.wrappers.borrowed.with_numbers import WithNumbers
from fastgen.denoisers.wrappers.borrowed.with_teacher import WithTeacher

__all__ = ["WithNumbers", "WithTeacher"]
