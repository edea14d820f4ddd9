"""MP-20 as mp20_cds_plus, wider and deeper, condition joined to the input, species weighted more.

    python -m experiments.train --config=configs/mp20_cdi_plus.py --workdir=runs/mp20_cdi_plus

Not yet trained.
"""

from ml_collections import ConfigDict

from configs import mp20_cds_plus


def get_config(variant: str = "full") -> ConfigDict:
    """The experiment; variant "smoke" runs in seconds."""
    config = mp20_cds_plus.get_config(variant)
    config.model.conditioning = "cdi"
    config.loss.species_cross_entropy = 0.5
    if variant == "full":
        config.model.width = 128
        config.model.num_blocks = 4
        config.training.num_steps = 14_000
    return config
