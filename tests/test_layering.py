"""The rules of the house, read off the source: who may import whom, and what nobody may do."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = "crystal_diffusion_jax"

# The only places that may speak to crystallography packages; the rest of the library, training
# and the sampler with it, runs on arrays.
CRYSTALLOGRAPHY = {"pymatgen", "ase", "spglib", "smact", "matminer", "monty"}
CRYSTALLOGRAPHY_PLACES = (
    f"{LIBRARY}/data/read.py",
    f"{LIBRARY}/data/perovskites.py",
    f"{LIBRARY}/structures.py",
    f"{LIBRARY}/judge/graph.py",
    f"{LIBRARY}/evaluation/",
    f"{LIBRARY}/api.py",
    f"{LIBRARY}/sampled_crystals.py",
)
ENTRY_POINT_PACKAGES = {"ml_collections", "absl"}
JAX_PACKAGES = {"jax", "flax", "optax", "orbax"}
# Reads published weights, which are pickles, with an unpickler that resolves listed names only.
RESTRICTED_UNPICKLER = f"{LIBRARY}/published_weights.py"


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imports_in(nodes: Iterator[ast.AST]) -> set[str]:
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


def offenders(paths: list[Path], forbidden: set[str]) -> dict[str, set[str]]:
    """Files that import a forbidden package, with what they import."""
    return {name(path): hit for path in paths if (hit := packages(path) & forbidden)}


def test_the_walk_sees_the_source():
    found = {name(path) for path in files(LIBRARY, "experiments", "configs")}
    assert f"{LIBRARY}/models/denoiser.py" in found
    assert "experiments/train.py" in found
    assert "configs/perov5_cds.py" in found


@pytest.mark.parametrize(("folder", "other"), [("diffusion", "models"), ("models", "diffusion")])
def test_diffusion_and_models_never_import_each_other(folder, other):
    for path in files(f"{LIBRARY}/{folder}"):
        reached = {module for module in imports(path) if module.startswith(f"{LIBRARY}.{other}")}
        assert not reached, f"{name(path)} imports {reached}"


def test_crystallography_packages_stay_in_the_files_made_for_them():
    users = offenders(files(LIBRARY), CRYSTALLOGRAPHY)
    assert f"{LIBRARY}/data/read.py" in users
    strangers = [user for user in users if not user.startswith(CRYSTALLOGRAPHY_PLACES)]
    assert strangers == []


def module_file(module: str) -> Path | None:
    """The source of a module of the library, None for anything else."""
    path = ROOT / Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if module.split(".")[0] == LIBRARY and candidate.exists():
            return candidate
    return None


def imported_on_load(path: Path) -> set[Path]:
    """The file and every file of the library that importing it imports."""
    reached, ahead = set(), [path]
    while ahead:
        path = ahead.pop()
        if path not in reached:
            reached.add(path)
            for module in imports_in(iter(tree(path).body)):
                source = module_file(module)
                ahead += [source] if source else []
    return reached


@pytest.mark.parametrize("entry", ["training/loop.py", "sampling/sampler.py", "data/load.py"])
def test_training_and_the_sampler_load_without_crystallography_packages(entry):
    reached = imported_on_load(ROOT / LIBRARY / entry)
    assert len(reached) > 3
    loaded = {
        package.split(".")[0] for path in reached for package in imports_in(iter(tree(path).body))
    }
    assert not loaded & CRYSTALLOGRAPHY


def test_the_library_takes_plain_values_and_leaves_flags_and_configs_to_the_entry_points():
    forbidden = ENTRY_POINT_PACKAGES | {"configs", "experiments", "tests"}
    assert offenders(files(LIBRARY), forbidden) == {}


def test_configs_hold_numbers_only():
    allowed = {"ml_collections", "configs"}
    for path in files("configs"):
        assert packages(path) <= allowed, name(path)


def test_data_preparation_runs_without_jax():
    # Batches are Crystals, hence the one exception, through crystals.py.
    users = offenders(files(f"{LIBRARY}/data"), JAX_PACKAGES)
    assert users == {}
    for path in files(f"{LIBRARY}/data"):
        if path.name != "batches.py":
            through = {name(source) for source in imported_on_load(path)}
            assert f"{LIBRARY}/crystals.py" not in through, name(path)


def test_no_file_is_a_drawer_for_odds_and_ends():
    drawers = {"utils.py", "util.py", "base.py", "helpers.py", "common.py", "misc.py"}
    found = {path.name for path in files(LIBRARY, "experiments", "configs", "tests")}
    assert not found & drawers


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call))


def called(call: ast.Call) -> str:
    """For example "yaml.load" or "eval"."""
    return ast.unparse(call.func)


def assert_only_restricts_the_unpickler(module: ast.Module) -> None:
    """Pickle serves as the base of classes that resolve names themselves, and for nothing else."""
    restricted = [
        node
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef)
        and [ast.unparse(base) for base in node.bases] == ["pickle.Unpickler"]
    ]
    uses = [node for node in ast.walk(module) if isinstance(node, ast.Name) and node.id == "pickle"]
    assert len(uses) == len(restricted) > 0
    for node in restricted:
        methods = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
        assert "super().find_class" not in ast.unparse(methods["find_class"])


@pytest.mark.parametrize(
    "path", files(LIBRARY, "experiments", "configs"), ids=lambda path: name(path)
)
def test_no_file_can_be_made_to_run_foreign_code(path):
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
    if name(path) == RESTRICTED_UNPICKLER:
        assert_only_restricts_the_unpickler(tree(path))
    else:
        assert not packages(path) & unsafe
    for call in calls(path):
        function = called(call)
        assert function not in {"eval", "exec", "yaml.load", "os.system", "os.popen"}, function
        for keyword in call.keywords:
            if keyword.arg in {"allow_pickle", "shell"}:
                assert ast.unparse(keyword.value) == "False", ast.unparse(call)
        if function in {"np.load", "numpy.load"}:
            given = {keyword.arg for keyword in call.keywords}
            assert "allow_pickle" in given, f"{ast.unparse(call)} does not say allow_pickle=False"


def test_importing_the_package_does_not_import_jax():
    code = f"import sys, {LIBRARY}; print(sorted({JAX_PACKAGES!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
