"""MP-20 (45,231 crystals of 1 to 20 atoms), formation energy, condition in every block (cds).

    python -m experiments.train --config=configs/mp20_cds.py --workdir=runs/mp20_cds

Not yet trained.
"""

from ml_collections import ConfigDict

from configs import perov5_cds


def get_config(variant: str = "full") -> ConfigDict:
    """The experiment; variant "smoke" runs in seconds."""
    config = perov5_cds.get_config(variant)
    config.data.name = "mp20"
    config.data.properties = ("formation_energy_per_atom",)
    config.scale_by_num_atoms = True
    config.sampling.corrector_step_size = 5e-6
    if variant == "full":
        config.model.width = config.model.pair_hidden_width = 96
        config.model.num_blocks = 4
        config.training.num_steps = 40_000
        config.training.learning_rate = 1e-3
        config.training.ema_decay = 0.9995
    return config
