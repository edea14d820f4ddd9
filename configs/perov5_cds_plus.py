"""Perov-5 as perov5_cds, with Muon.

    python -m experiments.train --config=configs/perov5_cds_plus.py --workdir=runs/perov5_cds_plus

One core of an AMD EPYC: 5,300 structures/s alone on it (21 min at that rate), in fact 1 h 9 min
beside other work. Expected, measured on 6,572 training crystals (58 % of the official split), seed
0: validation loss 0.571; 1,000 crystals at --target=min, three seeds of sampling: SR5 / SR10 / SR15
0.967 / 0.989 / 0.994 (SR5 0.959 to 0.977).
"""

from ml_collections import ConfigDict

from configs import perov5_cds


def get_config(variant: str = "full") -> ConfigDict:
    """The experiment; variant "smoke" runs in seconds."""
    config = perov5_cds.get_config(variant)
    config.training.optimizer = "muon"
    return config
