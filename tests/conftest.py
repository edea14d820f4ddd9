import pytest

from crystal_diffusion_jax.diffusion.schedules import NoiseConfig, NoiseSchedule, noise_schedule


@pytest.fixture(scope="session")
def schedule() -> NoiseSchedule:
    """The default tables, T = 1000; made once because of the thousand quadratures in them."""
    return noise_schedule(NoiseConfig())
