"""The cache of compiled programs, in processes of their own because JAX's settings are global."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crystal_diffusion_jax.runtime import compilation

ROOT = Path(__file__).parent.parent

PROGRAM = """
import jax, jax.numpy as jnp
from jax import monitoring
from crystal_diffusion_jax.runtime.compilation import keep_compiled_programs

hits = []
monitoring.register_event_listener(lambda event, **_: hits.append(event))
keep_compiled_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((7, 5)))
print(jax.config.jax_compilation_cache_dir, hits.count("/jax/compilation_cache/cache_hits"))
"""


def start(tmp_path: Path, **environment: str) -> tuple[str, int, str]:
    """Folder of the cache, programs found in it, and what went to stderr."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_", "CRYSTAL_", "XDG_"))
    }
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=inherited | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    folder, hits = finished.stdout.split()
    return folder, int(hits), finished.stderr


def test_the_second_start_finds_the_programs_of_the_first(tmp_path):
    folder, hits, _ = start(tmp_path)
    assert Path(folder).is_relative_to(tmp_path)
    assert hits == 0
    assert start(tmp_path)[1] > 0


def test_processors_with_other_instruction_sets_share_no_programs(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(compilation, "_CPUINFO", cpuinfo)
    names = [compilation.processor()]  # where there is no such file
    for listed in ("flags : sse2 avx2", "flags : sse2 avx2 avx512f", "Features : fp asimd"):
        cpuinfo.write_text(f"processor : 0\n{listed}\ncpu MHz : 2400\n")
        names.append(compilation.processor())
    assert len(set(names)) == 4
    cpuinfo.write_text("processor : 0\nFeatures : fp asimd\ncpu MHz : 2500\n")
    assert compilation.processor() == names[-1]


def test_a_cache_that_the_user_has_set_up_is_left_alone(tmp_path):
    own = tmp_path / "own"
    folder, _, _ = start(tmp_path, JAX_COMPILATION_CACHE_DIR=str(own))
    assert folder == str(own)
    assert not (tmp_path / "crystal-diffusion-jax").exists()


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path):
    (tmp_path / "crystal-diffusion-jax").write_text("a file where the folder should be")
    folder, _, stderr = start(tmp_path)
    assert folder == "None"
    assert stderr.count("compiled programs are not kept") == 1


def test_a_cache_that_may_only_be_read_costs_one_warning(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("may not mount a file system that is read-only")
    try:
        folder, _, stderr = start(tmp_path)
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
    assert folder == "None"
    assert stderr.splitlines() == [line for line in stderr.splitlines() if "not kept" in line]
    assert stderr.count("Read-only file system") == 1


def test_a_program_cut_off_in_the_cache_is_compiled_anew(tmp_path):
    folder, _, _ = start(tmp_path)
    programs = [path for path in Path(folder).iterdir() if path.name.endswith("-cache")]
    assert programs
    for program in programs:
        program.write_bytes(program.read_bytes()[:100])
    start(tmp_path)  # fails if the program does


REQUESTS = """
import json
from jax import monitoring
import crystal_diffusion_jax as cdj
from crystal_diffusion_jax.models import denoiser

compiled = []
def note(event, seconds, fun_name="", **_):
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(fun_name)
monitoring.register_event_duration_secs_listener(note)
traced = []
features = denoiser.pair_features
def tracing(*arguments):
    traced.append(arguments)
    return features(*arguments)
denoiser.pair_features = tracing

model = cdj.load("tests/tiny_model")
stages = {"load": list(compiled)}
for stage in ("first", "second"):
    before = len(compiled), len(traced)
    model.sample(2, "min", num_steps=3, num_atoms=5, log=lambda line: None)
    stages[stage] = compiled[before[0]:]
    stages[f"traced_{stage}"] = len(traced) - before[1]
print(json.dumps(stages))
"""


def test_a_request_compiles_the_sampler_and_no_small_programs(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-c", REQUESTS],
        cwd=ROOT,
        env=os.environ | {"CRYSTAL_DIFFUSION_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    stages = json.loads(finished.stdout)
    assert stages["load"] == []
    # With several devices, the keys are split among them by a program of JAX.
    programs = [name for name in stages["first"] if name != "jit(_multi_slice)"]
    assert programs == ["jit(crystal_keys)", "jit(sample)"]
    assert len(stages["first"]) <= 3
    # The network's, for the shapes of its weights and in the sampler.
    assert stages["traced_first"] == 2
    assert stages["second"] == []
    assert stages["traced_second"] == 0
