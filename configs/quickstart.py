"""Built-in cubic ABX3 perovskites, Goldschmidt tolerance factor: the whole pipeline in minutes.

    python -m experiments.train --config=configs/quickstart.py --workdir=runs/quickstart

Two cores of an AMD EPYC: about two minutes, 5,000 structures/s.
"""

from ml_collections import ConfigDict

from configs import perov5_cds


def get_config(variant: str = "full") -> ConfigDict:
    """The experiment; variant "smoke" runs in seconds."""
    config = perov5_cds.get_config(variant)
    config.data.name = "abx3"
    config.data.properties = ("tolerance_factor",)
    if variant == "full":
        config.model.num_blocks = 2
        config.training.num_steps = 4000
        config.training.batch_size = 128
        config.training.warmup_steps = 200
        config.training.ema_decay = 0.995
        config.training.checkpoint_every = 1000
    return config
