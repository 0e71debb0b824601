"""The rooms of the package and the floors they stand on: imports run one way, down; rooms and files stay small.

Imports are those at the top of a file, outside of ``if TYPE_CHECKING``. What does not hold yet stands in a table with
its reason; an entry that is not needed any more fails, so the tables only shrink.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "fastgen"
MOST_FILES, MOST_LINES = 20, 150

FLOORS: tuple[tuple[str, ...], ...] = (
    ("basics",),
    ("storage",),
    ("configuration",),
    ("processes", "results"),
    ("objectives",),
    ("times",),
    ("denoisers",),
    ("sampling",),
    ("checkpoints",),
    ("distiller",),
    ("extras",),
    ("methods",),
    ("pictures", "report", "miniatures"),
    ("metrics",),
    ("data",),
    ("layouts", "export", "planning"),
    ("callbacks",),
    ("cli",),
)
"""Rooms from the ground up; a room imports from lower floors only."""

ROOM_OF: dict[str, str] = {
    "strategies": "methods",
    "api": "cli",
    "miniatures.__main__": "cli",
    "__main__": "cli",
}
"""Files and folders that belong to another room than where they lie; other files at the top are basics.

Strategies know methods; the program and the door for Python know everything.
"""

UPWARDS: dict[tuple[str, str], str] = {}
"""Imports that run up, or across a floor, and what will end them."""

LARGE_ROOMS: dict[str, str] = {}
"""Folders with more files on one level than a room should have, and what will end that."""

LONG_FILES: dict[str, str] = {
    "checks": "a function of a few lines for every kind of range, with one way of saying it",
    "cli.commands.pairs": "options, source and loop of one command; the options are a third",
    "cli.commands.stats": "options, data and loop of one command; the options are a third",
    "configuration.diagnosis": "one walk over declared types; its branches call each other",
    "objectives.score_forms": "a few lines for every form; half of it is text",
    "sampling.clips.chunks": "chunks, samples and rollouts of one sampler; a third is text",
    "storage.documents": "JSON, YAML and text, each with what may be wrong with it",
    "extras.gan": "discriminator, its objective and R1 are one recipe",
    "methods": "the list of all methods, a line each",
    "methods.flow_maps.base": "half of it is text",
    "distiller.resume": "what a checkpoint must agree with, role by role",
    "distiller.score_term": "the term and its health; to be cut with its move",
    "distiller.state": "everything that a checkpoint holds and its way back",
    "sampling.samplers.policy": "segments, their chain and rollout; half of it is text and signatures",
    "objectives.flow_maps": "one derivation in several forms; half of it is text",
    "configuration.parsing": "what every parser refuses and what it writes",
    "checkpoints.seals": "what may be wrong with a file, told apart",
    "strategies": "Lightning's strategies for whole and for sharded networks",
    "times.levels": "every law of one time that looks at nothing else, a few lines each",
    "configuration.trust": "one walk over plain data that must be seen whole",
    "storage.writing": "atomic writing of files and folders, with what the system may refuse",
}
"""Files of the engine that are longer than they should be, and why."""

ENGINE = ("basics", "storage", "configuration", "processes", "objectives", "times", "sampling")
ENGINE += ("checkpoints", "distiller", "extras", "methods", "cli")
"""Rooms whose files are the engine."""


def name_of(path: Path) -> str:
    """``methods.base`` for ``fastgen/methods/base.py``; rooms are called by their folder."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"}


def room_of(name: str) -> str:
    """The room that a file belongs to."""
    first, _, rest = name.partition(".")
    own = first if rest or (PACKAGE / first).is_dir() else "basics"
    return ROOM_OF.get(name, ROOM_OF.get(first, own))


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """What runs when a file is imported, without what only type checkers read."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from statements(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from statements(getattr(node, part, []))
        else:
            yield node


@cache
def imports(name: str) -> frozenset[str]:
    """The files of the package that a file imports at its top."""
    found = set()
    for node in statements(ast.parse(FILES[name].read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner.removeprefix("fastgen.") in FILES else node.module)
    inside = {module.removeprefix("fastgen.") for module in found if module.startswith("fastgen.")}
    return frozenset(inside & set(FILES) - {name})


def floor_of(room: str) -> int:
    """How far up a room stands."""
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def upward() -> set[tuple[str, str]]:
    """Imports between rooms that do not run down."""
    pairs = {(name, other) for name in FILES for other in imports(name)}
    between = {(a, b) for a, b in pairs if room_of(a) != room_of(b)}
    return {(a, b) for a, b in between if floor_of(room_of(a)) <= floor_of(room_of(b))}


def test_every_room_has_a_floor():
    assert {room_of(name) for name in FILES} == {room for rooms in FLOORS for room in rooms}
    assert not set(ROOM_OF) - set(FILES), "files that have moved"


def test_imports_run_down_and_so_there_is_no_circle_of_rooms():
    found = upward()
    assert not found - set(UPWARDS), "imports that run up or across a floor; see FLOORS"
    assert not set(UPWARDS) - found, "exceptions that are not needed any more"


def test_files_import_no_circle():
    """Within a room, too: what is imported at the top of a file never leads back to it."""
    left = {name: set(imports(name)) for name in FILES if FILES[name].name != "__init__.py"}
    left = {name: others & set(left) for name, others in left.items()}
    while ready := [name for name, others in left.items() if not others & set(left)]:
        for name in ready:
            del left[name]
    assert not left, "files that import each other"


def test_no_room_has_too_many_files():
    count = Counter(path.parent for path in FILES.values() if path.name != "__init__.py")
    large = {folder.relative_to(PACKAGE).as_posix() for folder, number in count.items() if number > MOST_FILES}
    assert not large - set(LARGE_ROOMS), f"more than {MOST_FILES} files on one level"
    assert not set(LARGE_ROOMS) - large, "exceptions that are not needed any more"


def test_no_file_of_the_engine_is_long():
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    long = {name for name, number in lines.items() if room_of(name) in ENGINE and number > MOST_LINES}
    assert not long - set(LONG_FILES), f"more than {MOST_LINES} lines; say why in LONG_FILES, or cut the file"
    assert not set(LONG_FILES) - long, "exceptions that are not needed any more"
