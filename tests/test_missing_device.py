"""JAX_PLATFORMS names a device that does not exist: every program reports it in one sentence."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from crystal_diffusion_jax.cli import program as cli
from crystal_diffusion_jax.runtime import compilation, devices

ROOT = Path(__file__).parent.parent
UNKNOWN = "Unable to initialize backend 'nonsense': Backend 'nonsense' is not in the list of known"
ADVICE = " (set JAX_PLATFORMS='' to automatically choose an available backend)"


@pytest.fixture(autouse=True)
def _process_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keeps `program.run` from changing settings of the whole test process."""
    monkeypatch.setattr(devices, "use_every_core", lambda: None)
    monkeypatch.setattr(compilation, "keep_compiled_programs", lambda: None)
    asked = jax.config.values["jax_platforms"]
    yield
    jax.config.update("jax_platforms", asked)


def test_the_sampler_reports_it_and_writes_nothing(tmp_path: Path) -> None:
    # The name of no device, so that the test fails on no machine for having one.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.sample", "--model=perov5_cds", "--num=1"),
            f"--out={tmp_path / 'samples'}",
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: JAX_PLATFORMS=nonsense asks for a device that cannot be used")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("[!_]*.py")), ids=lambda path: path.stem
)
def test_every_program_runs_under_the_function_that_reports_the_error(path: Path) -> None:
    last = ast.unparse(ast.parse(path.read_text()).body[-1])
    assert last == f"if __name__ == '__main__':\n    program.run({path.stem}.main)"


def said(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: str | None,
    error: Exception,
) -> str:
    """What a program prints when JAX's search for devices fails."""

    def search() -> None:
        raise error

    monkeypatch.setattr(jax, "devices", search)
    jax.config.update("jax_platforms", asked)
    with pytest.raises(SystemExit) as ended:
        cli.run(search)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "error", "sentences"),
    [
        (
            "cuda",
            AssertionError(),
            ["JAX_PLATFORMS=cuda", "(no NVIDIA GPU is visible)", "unset", "jax[cuda13]"],
        ),
        (
            "tpu",
            RuntimeError(f"Unable to initialize backend 'tpu': no libtpu.so{ADVICE}"),
            ["JAX_PLATFORMS=tpu", "backend 'tpu': no libtpu.so)", "unset", "jax[tpu]"],
        ),
        (
            "nonsense",
            RuntimeError(f"{UNKNOWN}\nbackends.{ADVICE}"),
            ["JAX_PLATFORMS=nonsense", "list of known backends)", "jax[cuda13]", "jax[tpu]"],
        ),
        (
            None,
            RuntimeError("Unable to initialize backend 'cuda': no memory (you may need to wait)"),
            ["backend 'cuda': no memory)", "JAX_PLATFORMS=cpu"],
        ),
    ],
)
def test_the_message_names_the_device_the_reason_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: str | None,
    error: Exception,
    sentences: list[str],
) -> None:
    text = said(monkeypatch, capsys, asked, error)
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert [sentence for sentence in sentences if sentence not in text] == []
    assert ("jax[tpu]" in text) == (asked is not None)


@pytest.mark.parametrize("error", [AssertionError("broken"), RuntimeError("broken: really")])
@pytest.mark.parametrize("devices_found", [True, False])
def test_an_error_in_the_program_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, error: Exception, devices_found: bool
) -> None:
    def search() -> None:
        raise RuntimeError(UNKNOWN)

    def program() -> None:
        raise error

    if not devices_found:
        monkeypatch.setattr(jax, "devices", search)
    with pytest.raises(type(error), match="broken"):
        cli.run(program)


def test_a_program_that_needs_no_device_does_not_search_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jax, "devices", lambda: pytest.fail("looked for a device"))
    cli.run(lambda: None)
