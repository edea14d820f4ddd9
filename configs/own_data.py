"""Your own crystals and properties: the recipe of carbon24_cds_plus, for any table of crystals.

    python -m experiments.train --config=configs/own_data.py --workdir=runs/mine \\
        --config.data.root=mine.csv --config.data.properties="('band_gap',)"

docs/own_data.md says what the table may look like and how long to train.
"""

from ml_collections import ConfigDict

from configs import carbon24_cds_plus


def get_config(variant: str = "full") -> ConfigDict:
    """The experiment; variant "smoke" runs in seconds."""
    config = carbon24_cds_plus.get_config(variant)
    config.data.name = ""
    config.data.properties = ()
    config.sampling.corrector_step_size = 5e-6
    # Unlike carbon, most crystals have several elements: the weights of mp20_cdi_plus.
    config.loss.species_kl = 20.0
    config.loss.species_cross_entropy = 0.5
    if variant == "full":
        config.training.num_steps = 10_000
        config.training.ema_decay = 0.999
    return config
