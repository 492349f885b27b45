"""The rooms: which may import which, and that the pages which show them show what there is.

What lives here: the table of rooms, the tree of CONTRIBUTING.md and the graph of docs/architecture.md, both drawn from
the code; `python -m junk_leads_tests.test_architecture` draws them anew. What does not: what is in a room.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from textwrap import fill

import pytest

from junk_leads.definitions import build_defs

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "junk_leads"

# A room may import from those above it, never from those below.
ROOMS = {
    "errors.py": "The errors a person may see, each one plain line.",
    "home.py": "The folders and files below one root.",
    "capacity.py": "What a machine gives: the memory limit, and room on the disk looked for before a drop is read.",
    "reference/": "Facts as data: schema, tiers, groups, parameters, suites; `reference.py` loads them.",
    "steps/sql.py": "Names as SQL takes them.",
    "steps/boosting.py": "LightGBM, one call at a time in a process.",
    "steps/leads/": "",
    "steps/learning/": "",
    "steps/scoring/": "",
    "steps/watching/": "",
    "steps/pages/": "",
    "engine/": "",
    "stores/": "",
    "defs/": "",
    "definitions.py": "The code location: all of it put together, where Dagster's tools look for it.",
    "running/": "",
    "cli/": "",
}
MOST_ENTRIES = 12  # of a folder: more than one sees at a glance
ORDERED = "In order: "


@dataclass(frozen=True)
class Module:
    """A module of the package: its path below it, and the dotted names that it imports, wherever it does."""

    path: str
    imports: frozenset[str]

    @property
    def room(self) -> str:
        return room_of(self.path)

    @property
    def rooms_imported(self) -> set[str]:
        inside = {name.removeprefix("junk_leads.") for name in self.imports if name.startswith("junk_leads.")}
        return {room_of(path_of(name)) for name in inside}


def path_of(name: str) -> str:
    """The file below the package that a dotted name within it is of."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:length])
        if path.with_suffix(".py").exists():
            return path.with_suffix(".py").relative_to(PACKAGE).as_posix()
        if (path / "__init__.py").exists():
            return (path / "__init__.py").relative_to(PACKAGE).as_posix()
    raise AssertionError(f"there is no module of {name}")


def room_of(path: str) -> str:
    path = "reference/" if path == "reference.py" else path
    return max((room for room in ROOMS if path.startswith(room)), key=len, default=path)


def imported(source: str, package: str) -> Iterator[str]:
    """The dotted names that a module of `package` imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        package = ".".join(path.relative_to(CHECKOUT).parent.parts)
        imports = frozenset(imported(path.read_text(encoding="utf-8"), package))
        found.append(Module(path.relative_to(PACKAGE).as_posix(), imports))
    return tuple(found)


def folders() -> list[Path]:
    """The folders of the package that hold code, its own among them."""
    return [PACKAGE, *(path.parent for path in sorted(PACKAGE.rglob("__init__.py")) if path.parent != PACKAGE)]


def told(folder: Path) -> list[str]:
    """What a folder's `__init__.py` says of it: a sentence, and where there is one, the order of its modules."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    return [" ".join(part.split()) for part in text.split("\n\n")]


def sentence(folder: Path) -> str:
    """What a folder is for."""
    return told(folder)[0]


def entries(folder: Path) -> list[str]:
    """What is in a folder: in the order that it tells, or by name."""
    found = [path for path in sorted(folder.iterdir()) if path.name not in ("__init__.py", "__pycache__", "py.typed")]
    names = [f"{path.name}/" if path.is_dir() else path.stem for path in found]
    ordered = [part.removeprefix(ORDERED).rstrip(".").split(", ") for part in told(folder) if part.startswith(ORDERED)]
    return sorted(names, key=ordered[0].index) if ordered else names


# The tests


def test_every_module_stands_in_a_room_and_every_room_is_there() -> None:
    strays = [m.path for m in modules() if m.room not in ROOMS and not m.path.endswith("__init__.py")]
    assert strays == [], "put it into a room, or name the new room in the table"
    assert [room for room in ROOMS if not (PACKAGE / room).exists()] == []


def test_no_room_imports_from_one_below_it() -> None:
    order = list(ROOMS)
    upwards = [
        f"{module.path} imports from {room}"
        for module in modules()
        for room in module.rooms_imported
        if module.room not in ROOMS or order.index(room) > order.index(module.room)
    ]
    assert upwards == []


def test_imports_of_every_form_are_seen() -> None:
    source = "from . import checks\nfrom ..home import Home\ndef late():\n    import junk_leads.cli as shell"
    assert set(imported(source, "junk_leads.assets")) == {
        "junk_leads.assets.checks",
        "junk_leads.home.Home",
        "junk_leads.cli",
    }


def test_steps_know_no_dagster_no_mlflow_and_no_great_expectations() -> None:
    frameworks = ("dagster", "mlflow", "great_expectations")
    steps = [module for module in modules() if module.path.startswith("steps/")]
    assert steps
    for module in steps:
        assert [name for name in module.imports if name.startswith(frameworks)] == [], module.path


def test_the_product_never_imports_its_benchmarks_or_tests() -> None:
    for module in modules():
        assert {name.split(".")[0] for name in module.imports}.isdisjoint({"benchmarks", "junk_leads_tests"})


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.relative_to(CHECKOUT).as_posix())
def test_a_folder_is_seen_at_a_glance_and_says_what_it_is_for(folder: Path) -> None:
    assert len(entries(folder)) <= MOST_ENTRIES, "part it, or look for another room"
    assert sentence(folder).endswith("."), f"{folder / '__init__.py'} says in one sentence what it is for"


def test_the_tests_stand_in_the_same_rooms() -> None:
    tests = CHECKOUT / "junk_leads_tests"
    rooms = {room.rstrip("/").split("/")[-1] for room in ROOMS if room.endswith("/")} | {"whole", "faults"}
    assert {path.parent.name for path in tests.glob("*/*.py")} <= rooms


def test_the_pages_show_the_rooms_and_the_graph_that_there_are() -> None:
    for page, start, drawn in drawings():
        assert drawn in (CHECKOUT / page).read_text(encoding="utf-8"), (
            f"{page} ({start}) is out of date: draw it anew with python -m junk_leads_tests.test_architecture"
        )


# What is drawn


def drawings() -> list[tuple[str, str, str]]:
    """For each drawing its page, the line that it stands under, and itself as a block of Markdown."""
    return [
        ("CONTRIBUTING.md", "## Where things live", f"```\n{tree()}\n```"),
        ("docs/architecture.md", "## The way of a drop, and of a model", f"```mermaid\n{graph()}\n```"),
    ]


def tree() -> str:
    lines = ["junk_leads/"]
    for room, said in ROOMS.items():
        path = PACKAGE / room
        lines.append(f"  {room:<17} {said or sentence(path)}")
        if path.is_dir() and room != "reference/":
            lines.append(fill(" ".join(entries(path)), 112, initial_indent=" " * 20, subsequent_indent=" " * 20))
    return "\n".join(lines)


def graph() -> str:
    """The asset graph as Mermaid draws it, by group."""
    assets = build_defs().resolve_asset_graph()
    lines = ["flowchart TD"]
    keys = sorted(assets.get_all_asset_keys(), key=lambda key: key.to_user_string())
    for group in sorted({assets.get(key).group_name or "" for key in keys}):
        lines.append(f"    subgraph {group}")
        lines += [f"        {key.to_user_string()}" for key in keys if assets.get(key).group_name == group]
        lines.append("    end")
    edges = [(above, key) for key in keys for above in assets.get(key).parent_keys]
    lines += sorted(f"    {above.to_user_string()} --> {key.to_user_string()}" for above, key in edges)
    return "\n".join(lines)


def draw() -> None:
    """Draw every drawing anew, in its place: the first block under its line."""
    for page, start, drawn in drawings():
        path = CHECKOUT / page
        before, line, after = path.read_text(encoding="utf-8").partition(start)
        first, _, rest = after.partition("```")
        _, _, rest = rest.partition("```")
        path.write_text(f"{before}{line}{first}{drawn}{rest}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(draw())
