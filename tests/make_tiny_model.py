"""Trains the model of tests/tiny_model, which stands for any trained model where a test needs one.

    python -m tests.make_tiny_model

One block of width 16 on the built-in perovskites: its programs compile in a second or two, and most
of its crystals are crystals. Tests must not depend on how good they are.
"""

import shutil
import tempfile
from pathlib import Path

from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.training.loop import train
from tests import smoke_config

FOLDER = Path(__file__).parent / "tiny_model"


def main() -> None:
    """Trains two thousand steps of the smoke run and keeps its model."""
    config = smoke_config.get_config()
    config.training.num_steps = 2000
    config.training.learning_rate = 1e-2
    config.training.warmup_steps = 100
    config.training.ema_decay = 0.99
    config.training.log_every = config.training.checkpoint_every = 500
    experiment = config_module.from_dict(config.to_dict())
    with tempfile.TemporaryDirectory() as folder:
        model = train(experiment, load(experiment.data), Path(folder) / "run")
        shutil.copytree(model, FOLDER, dirs_exist_ok=True)


if __name__ == "__main__":
    devices.use_every_core()
    main()
