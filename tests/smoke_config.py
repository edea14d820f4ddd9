"""The run that the tests train: a tiny network on the built-in perovskites.

python -m experiments.train --config=tests/smoke_config.py --workdir=runs/smoke
"""

from ml_collections import ConfigDict

from configs import perov5_cds


def get_config() -> ConfigDict:
    """The smoke variant of Perov-5 with the built-in data, Adam, and a checkpoint halfway."""
    config = perov5_cds.get_config("smoke")
    config.data.name = "abx3"
    config.data.properties = ("tolerance_factor",)
    config.training.num_steps = 20
    config.training.optimizer = "adam"
    return config
