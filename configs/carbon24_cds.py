"""Carbon-24 (10,153 crystals of 6 to 24 atoms), energy per atom, conditioning cds.

    python -m experiments.train --config=configs/carbon24_cds.py --workdir=runs/carbon24_cds

Takes 1 h 31 min on one core of an AMD EPYC (Zen 5) beside other work. Expected on 3,362 training
crystals (55 % of the official split), seed 0: validation loss 0.657; 3 x 300 crystals at
--target=min: SR5 / SR10 / SR15 0.854 / 0.922 / 0.922.

Variants:
  "": what the shipped model of this name was trained with.
  "paper": the method of the paper: its score target without the mean-free projection, no auxiliary
    loss, no condition dropout (hence no guidance), Adam, no distances between atoms, no ranks of
    the property, no oversampling, its corrector, numbers of atoms from p(N). Its equations leave
    open the sizes of the network, its steps, the weights of the losses, the schedule of the
    learning rate and the moving average, which are ours.
  "smoke": a tiny network for ten steps, to check an installation in seconds.

All other fields have the defaults of `crystal_diffusion_jax.config`; `--show_config` prints them.
"""

from ml_collections import ConfigDict

from crystal_diffusion_jax.config import ExperimentConfig, to_dict


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or one of its variants "paper" or "smoke"."""
    config = ConfigDict(to_dict(ExperimentConfig()))
    config.data.name = "carbon24"
    config.data.properties = ("energy_per_atom",)
    config.scale_by_num_atoms = True
    config.model.conditioning = "cds"
    config.model.width = 128
    config.model.num_blocks = 4
    config.model.num_radial_features = 16
    config.model.num_rank_features = 20
    config.training.num_steps = 16_000
    config.training.optimizer = "muon"
    config.training.ema_decay = 0.9995
    config.training.tail_oversampling = 4
    config.sampling.corrector_step_size = 1e-5
    config.sampling.update(renoising_steps=5, averaging_rounds=4)

    match variant:
        case "":
            pass
        case "paper":
            config.model.num_radial_features = 0
            config.model.num_rank_features = 0
            config.training.update(num_steps=11_000, optimizer="adam", learning_rate=1e-3)
            config.training.tail_oversampling = 1
            config.model.mean_free_score = False
            config.loss.species_cross_entropy = 0.0
            config.loss.condition_dropout = 0.0
            config.sampling.update(renoising_steps=0, averaging_rounds=0, sizes_by_property=False)
        case "smoke":
            config.training.optimizer = "adam"
            config.noise.num_steps = 50
            config.model.update(width=16, pair_hidden_width=16, num_blocks=1, num_heads=2)
            config.training.update(num_steps=10, batch_size=32, warmup_steps=5)
            config.training.update(steps_per_call=5, log_every=5, checkpoint_every=10)
        case _:
            raise ValueError(f'there is no variant "{variant}"; choose "", "paper" or "smoke"')
    return config
