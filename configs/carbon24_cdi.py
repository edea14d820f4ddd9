"""Carbon-24, energy per atom, condition joined to the input (cdi); else as carbon24_cds.

python -m experiments.train --config=configs/carbon24_cdi.py --workdir=runs/carbon24_cdi

Not yet trained.
"""

from ml_collections import ConfigDict

from configs import carbon24_cds


def get_config(variant: str = "full") -> ConfigDict:
    """The experiment; variant "smoke" runs in seconds."""
    config = carbon24_cds.get_config(variant)
    config.model.conditioning = "cdi"
    return config
