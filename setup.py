"""What pyproject.toml cannot say: configs/ is installed inside of the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["crystal_diffusion_jax*"]), "crystal_diffusion_jax.configs"],
    package_dir={"crystal_diffusion_jax.configs": "configs"},
)
