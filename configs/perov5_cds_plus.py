"""Perov-5 as perov5_cds, with forces along bonds, the time in the pair MLPs, and Muon.

    python -m experiments.train --config=configs/perov5_cds_plus.py --workdir=runs/perov5_cds_plus

Not yet trained.
"""

from ml_collections import ConfigDict

from configs import perov5_cds


def get_config(variant: str = "full") -> ConfigDict:
    """The experiment; variant "smoke" runs in seconds."""
    config = perov5_cds.get_config(variant)
    config.training.optimizer = "muon"
    return config
