"""Carbon-24 as carbon24_cds_plus, from its weights, with cosines of the energy's rank.

python -m experiments.train --config=configs/carbon24_cds_ranks.py --workdir=runs/carbon24_cds_ranks

One core of an AMD EPYC: 950 structures/s, 1 h 06 min beside other work. Expected, measured on 3,362
training crystals (55 % of the official split), seed 0: validation loss 0.689; 200 crystals at
--target=min: SR5 / SR10 / SR15 0.415 / 0.595 / 0.610.
"""

from ml_collections import ConfigDict

from configs import carbon24_cds_plus


def get_config(variant: str = "full") -> ConfigDict:
    """The experiment; variant "smoke" runs in seconds."""
    config = carbon24_cds_plus.get_config(variant)
    config.model.num_rank_features = 20
    config.sampling.renoising_steps = 5
    if variant == "full":
        config.training.init_from = "carbon24_cds_plus"
        config.training.num_steps = 8_000
        config.training.learning_rate = 1.5e-3
    return config
