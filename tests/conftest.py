import os
import tempfile

import jax
import pytest

from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.diffusion.schedules import NoiseConfig, NoiseSchedule, noise_schedule
from crystal_diffusion_jax.sampling.sampler import make_sampler

# Compiling the same programs again takes most of the time of these tests, so compiled programs are
# kept for the session; in the environment, for the workers and the programs that the tests start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # remarks on the CPU at each use of the cache
    jax.config.update("jax_compilation_cache_dir", _COMPILED.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def schedule() -> NoiseSchedule:
    """The default tables, T = 1000; made once because of the thousand quadratures in them."""
    return noise_schedule(NoiseConfig())


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
