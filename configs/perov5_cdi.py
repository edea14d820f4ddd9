"""Perov-5, heat of formation, condition joined to the input (cdi); else as perov5_cds.

python -m experiments.train --config=configs/perov5_cdi.py --workdir=runs/perov5_cdi

Not yet trained in full; the cost is that of perov5_cds.
"""

from ml_collections import ConfigDict

from configs import perov5_cds


def get_config(variant: str = "full") -> ConfigDict:
    """The experiment; variant "smoke" runs in seconds."""
    config = perov5_cds.get_config(variant)
    config.model.conditioning = "cdi"
    return config
