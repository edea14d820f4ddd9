"""MP-20, formation energy, condition joined to the input (cdi); else as mp20_cds.

python -m experiments.train --config=configs/mp20_cdi.py --workdir=runs/mp20_cdi

Not yet trained.
"""

from ml_collections import ConfigDict

from configs import mp20_cds


def get_config(variant: str = "full") -> ConfigDict:
    """The experiment; variant "smoke" runs in seconds."""
    config = mp20_cds.get_config(variant)
    config.model.conditioning = "cdi"
    return config
