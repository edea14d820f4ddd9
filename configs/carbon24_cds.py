"""Carbon-24 (10,153 crystals of 6 to 24 atoms), energy per atom, conditioning cds.

The shipped model was trained in three stages; the second adds the ranks of the energy as features,
the third repeats the crystals of both tails in each epoch.

    python -m experiments.train --config=configs/carbon24_cds.py:pretrain \\
        --workdir=runs/carbon24_cds_pretrain
    python -m experiments.train --config=configs/carbon24_cds.py:ranks \\
        --workdir=runs/carbon24_cds_ranks
    python -m experiments.train --config=configs/carbon24_cds.py --workdir=runs/carbon24_cds

Takes 1 h 18 min on two busy cores of an AMD EPYC, 1 h 06 min on one, and 28 min on one core of an
Intel Xeon. Expected on 3,362 training crystals (55 % of the official split), seed 0, at
--target=min: validation loss 0.692, SR5 / SR10 / SR15 0.345 / 0.540 / 0.545 after the first stage,
0.689 and 0.415 / 0.595 / 0.610 after the second (200 crystals, without averaged denoising), 0.687
and 0.573 / 0.667 / 0.667 after the third (300 crystals, as sampled by default).

Variants:
  "": what the shipped model of this name was trained with.
  "pretrain": the first stage.
  "ranks": the second.
  "paper": the method of the paper: its score target without the mean-free projection, no auxiliary
    loss, no condition dropout (hence no guidance), Adam, no distances between atoms, no ranks of
    the property, its corrector, numbers of atoms from p(N). Its equations leave open the sizes of
    the network, the weights of the losses, the schedule of the learning rate and the moving
    average, which are ours.
  "smoke": a tiny network for ten steps, to check an installation in seconds.

All other fields have the defaults of `crystal_diffusion_jax.config`; `--show_config` prints them.
"""

from ml_collections import ConfigDict

from crystal_diffusion_jax.config import ExperimentConfig, to_dict


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or one of its variants "pretrain", "ranks", "paper" or "smoke"."""
    config = ConfigDict(to_dict(ExperimentConfig()))
    config.data.name = "carbon24"
    config.data.properties = ("energy_per_atom",)
    config.scale_by_num_atoms = True
    config.model.conditioning = "cds"
    config.model.num_radial_features = 16
    config.training.num_steps = 24_000
    config.training.optimizer = "muon"
    config.training.ema_decay = 0.9995
    config.sampling.corrector_step_size = 1e-5

    match variant:
        case "":
            config.model.num_rank_features = 20
            config.training.init_from = "runs/carbon24_cds_ranks"
            config.training.update(num_steps=6_000, learning_rate=1.5e-3, tail_oversampling=4)
            config.sampling.update(renoising_steps=5, averaging_rounds=4)
        case "pretrain":
            pass
        case "ranks":
            config.model.num_rank_features = 20
            config.training.init_from = "runs/carbon24_cds_pretrain"
            config.training.update(num_steps=8_000, learning_rate=1.5e-3)
            config.sampling.renoising_steps = 5
        case "paper":
            config.model.num_radial_features = 0
            config.training.update(num_steps=26_000, optimizer="adam", ema_decay=0.999)
            config.model.mean_free_score = False
            config.loss.species_cross_entropy = 0.0
            config.loss.condition_dropout = 0.0
            config.sampling.sizes_by_property = False
        case "smoke":
            config.training.optimizer = "adam"
            config.noise.num_steps = 50
            config.model.update(width=16, pair_hidden_width=16, num_blocks=1, num_heads=2)
            config.training.update(num_steps=10, batch_size=32, warmup_steps=5)
            config.training.update(steps_per_call=5, log_every=5, checkpoint_every=10)
        case _:
            raise ValueError(
                f'there is no variant "{variant}"; choose "", "pretrain", "ranks", "paper" or '
                '"smoke"'
            )
    return config
