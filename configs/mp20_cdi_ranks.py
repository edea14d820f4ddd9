"""MP-20 as mp20_cdi_plus, from its weights, with cosines of the formation energy's rank.

    python -m experiments.train --config=configs/mp20_cdi_ranks.py --workdir=runs/mp20_cdi_ranks

One core of an AMD EPYC: 530 structures/s, 2 h 06 min beside other work. Expected, measured on
12,258 binary and ternary training crystals (45 % of the official split's size; this config alone
does not select them), seed 0: validation loss 1.639; 200 crystals at --target=min: SR5 / SR10 /
SR15 0.890 / 0.950 / 0.970, 105 of them valid in composition.
"""

from ml_collections import ConfigDict

from configs import mp20_cdi_plus


def get_config(variant: str = "full") -> ConfigDict:
    """The experiment; variant "smoke" runs in seconds."""
    config = mp20_cdi_plus.get_config(variant)
    config.model.num_rank_features = 20
    if variant == "full":
        config.training.init_from = "mp20_cdi_plus"
        config.training.num_steps = 13_000
        config.training.learning_rate = 1.5e-3
    return config
