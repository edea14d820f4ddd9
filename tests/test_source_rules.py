"""No file of the project can run foreign code, trust a foreign pickle or fetch over plain text."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("crystal_diffusion_jax", "experiments", "benchmarks", "configs")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

# Reads published weights with an unpickler that resolves a fixed list of names, see its tests.
RESTRICTED_UNPICKLER = "crystal_diffusion_jax/published_weights.py"
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "torch"}
# Trains a network in PyTorch, whose files are pickles, without reading or writing one.
TORCH = "benchmarks/torch_reference.py"
TORCH_FILES = {"torch.load", "torch.save", "torch.jit.load", "torch.hub.load"}
CALLS = {
    *TORCH_FILES,
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.spawnv"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load", "tempfile.mktemp"),
    *("ssl._create_unverified_context", "ssl._create_stdlib_context", "pd.read_pickle"),
    *("subprocess.getoutput", "subprocess.getstatusoutput"),
}
# Fetches https addresses only and checks what arrives, see its tests.
DOWNLOADER = "crystal_diffusion_jax/runtime/downloads.py"
FETCHING = {
    *("urlopen", "urlretrieve", "build_opener", "install_opener", "HTTPConnection"),
    *("HTTPSConnection", "create_connection", "FTP"),
}
FETCHERS = {"requests", "urllib3", "httpx", "aiohttp", "wget", "ftplib", "fsspec", "pooch"}
# What is fetched is a file of one commit or digest, so that nobody can put another in its place.
PINNED = re.compile(r"https://[^/]+/.*\b[0-9a-f]{40,64}\b")
EXTRACTING = {"extract", "extractall", "unpack_archive"}
# Keyword arguments, and the only value that they may have.
ONLY = {"allow_pickle": "False", "shell": "False", "verify": "True", "check_hostname": "True"}
LOADERS = {"np.load", "numpy.load", "np.lib.format.read_array", "jnp.load"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def problems(
    source: str,
    may_restrict_pickle: bool = False,
    may_fetch: bool = False,
    may_use_torch: bool = False,
) -> Iterator[str]:
    """What in a source is forbidden."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                modules = {alias.name.split(".")[0] for alias in node.names}
            case ast.ImportFrom():
                modules = {(node.module or "").split(".")[0]}
            case _:
                modules = set()
        for module in modules & (FETCHERS - ({"pooch"} if may_fetch else set())):
            yield f"fetches with {module}"
        exempt = {"pickle": may_restrict_pickle, "torch": may_use_torch}
        for module in {module for module in modules & PICKLING if not exempt.get(module)}:
            yield f"imports {module}"
        match node:
            case ast.Call():
                yield from _problems_of_call(node, may_restrict_pickle)
                fetching = ast.unparse(node.func).split(".")[-1]
                if fetching in FETCHING and not may_fetch:
                    yield f"fetches with {fetching}, without the checks of {DOWNLOADER}"
            case ast.Attribute(attr="CERT_NONE" | "_create_unverified_context"):
                yield "turns off the check of certificates"
            case ast.Constant(value=str(text)) if text.lower().startswith(("http:", "ftp:")):
                yield f"names an address without TLS: {text}"
            case ast.Constant(value=str(text)) if text.startswith("https://") and len(text) > 8:
                if not PINNED.match(text):
                    yield f"names an address whose content may change: {text}"


def _problems_of_call(call: ast.Call, may_restrict_pickle: bool) -> Iterator[str]:
    function = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if function in CALLS or function.split(".")[-1] in EXTRACTING:
        yield f"calls {function}"
    if function.startswith("pickle.") or (function == "super().find_class" and may_restrict_pickle):
        yield f"unpickles with {function}"
    if function in LOADERS and given.get("allow_pickle") != "False":
        yield f"{function} without allow_pickle=False"
    for keyword, allowed in ONLY.items():
        if given.get(keyword, allowed) != allowed:
            yield f"{function} with {keyword}={given[keyword]}"


def test_the_walk_sees_every_folder() -> None:
    assert {name(path).split("/")[0] for path in FILES} == set(FOLDERS)
    assert {RESTRICTED_UNPICKLER, DOWNLOADER, TORCH} <= set(map(name, FILES))


def test_no_file_runs_foreign_code_or_turns_a_check_off() -> None:
    found = [
        f"{name(path)} {problem}"
        for path in FILES
        for problem in problems(
            path.read_text(encoding="utf-8"),
            *(name(path) == one for one in (RESTRICTED_UNPICKLER, DOWNLOADER, TORCH)),
        )
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec(text)",
        "import pickle",
        "import os, marshal",
        "from cloudpickle import loads",
        "yaml.load(text)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=flag)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.save(path, array, allow_pickle=True)",
        "url = 'http://example.org'",
        "url = f'http://{host}'",
        "requests.get(url, verify=False)",
        "context.verify_mode = ssl.CERT_NONE",
        "ssl._create_default_https_context = ssl._create_unverified_context",
        "archive.extractall(folder)",
        "os.system('ls')",
        "urllib.request.urlopen(url)",
        "urlretrieve(url, path)",
        "import requests",
        "url = 'https://example.org/main/data.csv'",
    ],
)
def test_the_rules_can_be_broken(source: str) -> None:
    assert list(problems(source))


@pytest.mark.parametrize("source", ["pickle.loads(x)", "super().find_class(module, name)"])
def test_the_restricted_unpickler_is_held_to_rules_too(source: str) -> None:
    assert list(problems(source, may_restrict_pickle=True))


def test_pytorch_reads_no_file() -> None:
    assert list(problems("import torch\ntorch.zeros(3)", may_use_torch=True)) == []
    assert list(problems("import torch\ntorch.load(path)", may_use_torch=True))
    assert list(problems("import torch"))
