import os
import signal
import tempfile
from collections.abc import Iterator

import hypothesis
import jax
import pytest

import tests.shapes  # noqa: F401, checks the signatures of what is imported below

# isort: split
from crystal_diffusion_jax import denoising, trained_model
from crystal_diffusion_jax.config import NoiseConfig
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule, noise_schedule
from crystal_diffusion_jax.runtime.workers import Workers
from crystal_diffusion_jax.sampling.sampler import make_sampler
from crystal_diffusion_jax.trained_model import TrainedModel
from tests import make_tiny_model
from tests.child import FEWER_KERNELS

# Compiling the same programs again takes most of the time of these tests, so compiled programs are
# kept for the session; in the environment, for the workers and the programs that the tests start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # remarks on the CPU at each use of the cache
    jax.config.update("jax_compilation_cache_dir", _COMPILED.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# Compiling takes half as long without most optimisations, and a quarter with fewer kernels, too;
# JAX_DISABLE_MOST_OPTIMIZATIONS=false compiles as users do, as does test_determinism.py. In the
# environment, for child processes.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FEWER_KERNELS}".strip()
    jax.config.update("jax_disable_most_optimizations", True)

# The same examples in every run, and however long they take on a busy machine.
hypothesis.settings.register_profile(
    "reproducible",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("reproducible")

# One device in all tests, whichever come first: a command would make one of each core.
jax.devices()


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs() -> Iterator[None]:
    """Those of one file do nothing for the next but fill the memory of the worker."""
    yield
    make_sampler.cache_clear()
    jax.clear_caches()


def work_in_this_process(patch: pytest.MonkeyPatch) -> None:
    """Runs the work of worker processes in this one, where it can be patched."""
    patch.setattr(Workers, "map", lambda self, items: map(self.function, items))
    patch.setattr(
        Workers, "map_as_finished", lambda self, items: enumerate(map(self.function, items))
    )


@pytest.fixture
def in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`work_in_this_process`; not in slow tests."""
    if not request.node.get_closest_marker("slow"):
        work_in_this_process(monkeypatch)


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Ctrl-C as Python has it by itself, also in a worker process that ignores it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.fixture(scope="session")
def schedule() -> NoiseSchedule:
    """The default tables, T = 1000."""
    return noise_schedule(NoiseConfig())


@pytest.fixture(scope="session")
def tiny_model() -> TrainedModel:
    """A trained model whose programs compile quickly; its folder is make_tiny_model.FOLDER."""
    return trained_model.load(make_tiny_model.FOLDER)


@pytest.fixture
def sampler_traces(monkeypatch) -> list[int]:
    """Grows by one with each tracing of a sampler; programs of earlier tests are forgotten."""
    traces: list[int] = []
    plain_bind = denoising.bind

    def counting_bind(*args):
        traces.append(1)
        return plain_bind(*args)

    monkeypatch.setattr(denoising, "bind", counting_bind)
    make_sampler.cache_clear()
    return traces
