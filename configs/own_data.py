"""Your own crystals and properties: conditioning cds, for any table of crystals.

    python -m experiments.train --config=configs/own_data.py --workdir=runs/mine \\
        --config.data.root=mine.csv --config.data.properties=band_gap

docs/own_data.md explains what the table may look like and how long to train. Of fewer than 2,000
crystals own_data_finetune.py makes sounder crystals.

The variant "smoke" is a tiny network for ten steps, to check the table in seconds.

All other fields have the defaults of `crystal_diffusion_jax.config`; `--show_config` prints them.
"""

from ml_collections import ConfigDict

from crystal_diffusion_jax.config import ExperimentConfig, to_dict


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its variant "smoke"."""
    config = ConfigDict(to_dict(ExperimentConfig()))
    config.scale_by_num_atoms = True
    config.model.conditioning = "cds"
    config.model.num_radial_features = 16
    config.loss.species_cross_entropy = 0.5
    config.training.num_steps = 10_000
    config.training.decay_steps = 2_000  # a run that has not reached them may be prolonged
    config.training.optimizer = "muon"
    config.sampling.corrector_step_size = 5e-6

    match variant:
        case "":
            pass
        case "smoke":
            config.training.optimizer = "adam"
            config.noise.num_steps = 50
            config.model.update(width=16, pair_hidden_width=16, num_blocks=1, num_heads=2)
            config.training.update(num_steps=10, batch_size=32, warmup_steps=5)
            config.training.update(steps_per_call=5, log_every=5, checkpoint_every=10)
        case _:
            raise ValueError(f'there is no variant "{variant}"; choose "" or "smoke"')
    return config
