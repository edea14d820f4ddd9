"""Carbon-24 (10,153 crystals of 6 to 24 atoms), energy per atom, condition in every block (cds).

    python -m experiments.train --config=configs/carbon24_cds.py --workdir=runs/carbon24_cds

Not yet trained in full; carbon24_cds_plus learns quicker.
"""

from ml_collections import ConfigDict

from configs import perov5_cds


def get_config(variant: str = "full") -> ConfigDict:
    """The experiment; variant "smoke" runs in seconds."""
    config = perov5_cds.get_config(variant)
    config.data.name = "carbon24"
    config.data.properties = ("energy_per_atom",)
    config.scale_by_num_atoms = True
    config.sampling.corrector_step_size = 1e-5
    return config
