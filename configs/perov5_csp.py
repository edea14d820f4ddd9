"""`perov5_cds`, trained on with given formulas: it generates, and predicts structures.

    python -m experiments.train --config=configs/perov5_csp.py --workdir=runs/perov5_csp

Half of the crystals are shown with their clean species. Takes 11 min on one core of an AMD EPYC
beside other work. Expected on 6,572 training crystals (58 % of the official split), seed 0:
validation loss 0.574, with given species coordinates 0.204 and lattice 0.219; docs/prediction.md
has the match rates.

The variant "smoke" takes ten steps from `perov5_cds`, to check an installation.

All other fields have the defaults of `crystal_diffusion_jax.config`; `--show_config` prints them.
"""

from ml_collections import ConfigDict

from configs import perov5_cds


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its variant "smoke"."""
    config = perov5_cds.get_config()
    config.loss.species_given = 0.5
    config.training.init_from = "perov5_cds"
    config.training.num_steps = 10_000

    match variant:
        case "":
            pass
        case "smoke":
            config.training.update(num_steps=10, batch_size=32, warmup_steps=5)
            config.training.update(steps_per_call=5, log_every=5, checkpoint_every=10)
        case _:
            raise ValueError(f'there is no variant "{variant}"; choose "" or "smoke"')
    return config
