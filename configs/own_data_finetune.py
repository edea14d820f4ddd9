"""Your own crystals and properties, starting from `mp20_cdi`: for fewer than 2,000 crystals.

    python -m experiments.train --config=configs/own_data_finetune.py --workdir=runs/mine \\
        --config.data.root=mine.csv --config.data.properties=band_gap

The network is that of `mp20_cdi`. Training ends when the validation loss has not fallen for
`training.patience` validations, and the model is that of the lowest. docs/own_data.md has what 40,
300 and 3,000 crystals give.

The variant "smoke" takes ten steps from `mp20_cdi`, to check the table.

All other fields have the defaults of `crystal_diffusion_jax.config`; `--show_config` prints them.
"""

from ml_collections import ConfigDict

from crystal_diffusion_jax.config import ExperimentConfig, to_dict


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its variant "smoke"."""
    config = ConfigDict(to_dict(ExperimentConfig()))
    # As configs/mp20_cdi.py
    config.scale_by_num_atoms = True
    config.model.update(conditioning="cdi", width=128, num_blocks=4)
    config.model.update(num_radial_features=16, num_rank_features=20)
    config.loss.species_cross_entropy = 0.5
    config.sampling.corrector_step_size = 5e-6

    config.data.val_fraction = 0.2
    config.training.update(
        init_from="mp20_cdi",
        optimizer="muon",
        num_steps=2_000,
        batch_size=32,
        learning_rate=1e-4,
        property_rate=300.0,
        warmup_steps=50,
        decay_steps=500,
        ema_decay=0.99,
        log_every=50,
        checkpoint_every=50,
        patience=5,
    )
    match variant:
        case "":
            pass
        case "smoke":
            config.training.update(num_steps=10, warmup_steps=5)
            config.training.update(steps_per_call=5, log_every=5, checkpoint_every=10)
        case _:
            raise ValueError(f'there is no variant "{variant}"; choose "" or "smoke"')
    return config
