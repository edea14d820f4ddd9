"""The rooms of the house and who may import whom, read off the source."""

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from crystal_diffusion_jax.cli.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
LIBRARY = "crystal_diffusion_jax"

# A room is a package or a module at the top of the library. Each may import itself and what stands
# here; docs/architecture.md has the same table for people.
GROUND = {"errors", "crystals", "commands", "config", "request"}
BELOW_DATA = GROUND | {"runtime", "structures"}
BELOW_MODEL = BELOW_DATA | {"data", "diffusion", "models"}
BELOW_USE = BELOW_MODEL | {"denoising", "trained_model"}
BELOW_EVALUATION = BELOW_DATA | {"data", "oracles", "potentials"}
BELOW_DISCOVERY = BELOW_USE | BELOW_EVALUATION | {"sampling", "evaluation"}
BELOW_API = (
    BELOW_USE
    | BELOW_EVALUATION
    | {
        "training",
        "sampling",
        "published_weights",
        "evaluation",
        "discovery",
    }
)
MAY_IMPORT = {
    "errors": set(),
    "crystals": set(),
    "commands": set(),
    "config": {"errors"},
    "request": {"errors", "commands", "config"},
    "runtime": {"errors"},
    "structures": GROUND | {"runtime"},
    "data": BELOW_DATA,
    "diffusion": {"crystals", "config"},
    "models": {"crystals", "config"},
    "denoising": BELOW_MODEL,
    "trained_model": BELOW_MODEL | {"denoising"},
    "training": BELOW_USE,
    "sampling": BELOW_USE,
    "published_weights": {"errors", "runtime", "structures"},
    "oracles": {"errors", "runtime", "structures", "published_weights"},
    "potentials": {"errors", "runtime", "structures", "published_weights"},
    "evaluation": BELOW_EVALUATION,
    "discovery": BELOW_DISCOVERY,
    "report": BELOW_EVALUATION | {"evaluation"},
    "api": BELOW_API,
    "cli": BELOW_API | {"api", "report"},
}
# Outside the wheel.
STUDIES = ("studies", "benchmarks")

# The rest of the library, training and the sampler with it, runs on arrays.
CRYSTALLOGRAPHY = {"pymatgen", "ase", "gemmi", "spglib", "smact", "matminer", "monty"}
CRYSTALLOGRAPHY_ROOMS = {
    *("structures", "data", "oracles", "potentials", "evaluation", "discovery", "report"),
}
# Types in the signatures of the interface.
CRYSTALLOGRAPHY_TYPES = {f"{LIBRARY}/api/arguments.py"}
FLAG_PACKAGES = {"ml_collections", "absl"}
FLAG_PLACES = (f"{LIBRARY}/cli/train.py", "configs/")
JAX_PACKAGES = {"jax", "flax", "optax", "orbax"}


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    """The room that a file of the library belongs to, "" for the package itself."""
    parts = path.relative_to(ROOT / LIBRARY).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imports_in(nodes: Iterable[ast.AST]) -> set[str]:
    """Dotted names imported; `from a import b` gives both a and a.b, as b may be a module."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layers"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports(path: Path) -> set[str]:
    """Everything a file imports, also inside functions."""
    return imports_in(ast.walk(tree(path)))


def packages(path: Path) -> set[str]:
    return {imported.split(".")[0] for imported in imports(path)}


def module_file(module: str) -> Path | None:
    """The source of a module of the library, None for anything else."""
    path = ROOT / Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if module.split(".")[0] == LIBRARY and candidate.exists():
            return candidate
    return None


def imported_files(modules: Iterable[str]) -> set[Path]:
    return {source for module in modules if (source := module_file(module))}


def imported_on_load(path: Path) -> set[Path]:
    """The file and every file of the library that importing it imports."""
    reached: set[Path] = set()
    ahead = [path]
    while ahead:
        path = ahead.pop()
        if path not in reached:
            reached.add(path)
            ahead += imported_files(imports_in(tree(path).body))
    return reached


def test_every_file_is_in_a_room() -> None:
    assert {room(path) for path in files(LIBRARY)} - {""} == set(MAY_IMPORT)


@pytest.mark.parametrize("this", MAY_IMPORT)
def test_a_room_imports_only_what_stands_below_it(this: str) -> None:
    allowed = MAY_IMPORT[this] | {this, ""}
    arrows = {
        f"{name(path)} -> {name(source)}"
        for path in files(LIBRARY)
        if room(path) == this
        for source in imported_files(imports(path))
        if room(source) not in allowed
    }
    assert arrows == set()


def test_there_are_no_circles() -> None:
    arrows = {
        path: imported_files(imports(path)) - {path, ROOT / LIBRARY / "__init__.py"}
        for path in files(LIBRARY)
        if room(path)
    }
    graphlib.TopologicalSorter(arrows).prepare()  # raises CycleError
    rooms = {
        this: {above for above in MAY_IMPORT if this in MAY_IMPORT[above]} for this in MAY_IMPORT
    }
    graphlib.TopologicalSorter(rooms).prepare()


def test_crystallography_packages_stay_in_their_rooms() -> None:
    users = {path for path in files(LIBRARY) if packages(path) & CRYSTALLOGRAPHY}
    assert {room(path) for path in users} > {"structures", "evaluation"}
    strangers = {name(path) for path in users if room(path) not in CRYSTALLOGRAPHY_ROOMS}
    assert strangers <= CRYSTALLOGRAPHY_TYPES


@pytest.mark.parametrize("entry", ["training/loop.py", "sampling/sampler.py", "data/load.py"])
def test_training_and_the_sampler_load_without_crystallography_packages(entry: str) -> None:
    reached = imported_on_load(ROOT / LIBRARY / entry)
    assert len(reached) > 3
    loaded = {package.split(".")[0] for path in reached for package in imports_in(tree(path).body)}
    assert not loaded & CRYSTALLOGRAPHY


def test_flags_and_config_files_stay_at_the_door() -> None:
    users = {name(path) for path in files(LIBRARY, "configs") if packages(path) & FLAG_PACKAGES}
    assert users
    assert {user for user in users if not user.startswith(FLAG_PLACES)} == set()


def test_the_library_knows_nothing_of_what_stands_around_it() -> None:
    around = {"configs", "experiments", "tests", *STUDIES}
    users = {name(path): packages(path) & around for path in files(LIBRARY)}
    assert {user: found for user, found in users.items() if found} == {}


def test_data_preparation_runs_without_jax() -> None:
    # Batches are Crystals, hence the one exception, through crystals.py.
    for path in files(f"{LIBRARY}/data"):
        assert not packages(path) & JAX_PACKAGES, name(path)
        if path.name != "batches.py":
            through = {name(source) for source in imported_on_load(path)}
            assert f"{LIBRARY}/crystals.py" not in through, name(path)


def test_no_two_classes_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for path in files(LIBRARY):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name(path))
    assert {found: where for found, where in places.items() if len(where) > 1} == {}


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"utils.py", "util.py", "base.py", "helpers.py", "common.py", "misc.py"}
    found = {path.name for path in files(LIBRARY, "experiments", "configs", "studies", "tests")}
    assert not found & drawers


def test_the_help_of_every_command_loads_neither_jax_nor_pymatgen() -> None:
    heavy = JAX_PACKAGES | CRYSTALLOGRAPHY | {"scipy", "pandas", "matplotlib"}
    # In one process, as what one command loads shows at the next as well.
    program = f"""
import contextlib, io, sys
from {LIBRARY}.cli import __main__ as script
for command in [[], *([command] for command in {list(COMMANDS)!r})]:
    sys.argv = ["crystal-diffusion", *command, "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
        script.main()
    assert "--" in said.getvalue()
    found = sorted({heavy!r} & set(sys.modules))
    assert not found, f"{{command}} loads {{found}}"
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
