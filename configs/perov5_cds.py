"""Perov-5 (18,928 perovskites of five atoms), heat of formation, conditioning cds.

    python -m experiments.train --config=configs/perov5_cds.py --workdir=runs/perov5_cds

Takes 45 min on one core of an AMD EPYC beside other work. Expected on 6,572 training crystals (58 %
of the official split), seed 0: validation loss 0.572, with given species coordinates 0.206 and
lattice 0.219; docs/table1.md has the success rates, docs/prediction.md the match rates.

Variants:
  "": what the shipped model of this name was trained with.
  "paper": the method of the paper: its score target without the mean-free projection, no auxiliary
    loss, no condition dropout (hence no guidance), Adam, numbers of atoms from p(N). Its equations
    leave open the sizes of the network, its steps, the weights of the losses, the schedule of the
    learning rate and the moving average, which are ours.
  "smoke": a tiny network for ten steps, to check an installation in seconds.

All other fields have the defaults of `crystal_diffusion_jax.config`; `--show_config` prints them.
"""

from ml_collections import ConfigDict

from crystal_diffusion_jax.config import ExperimentConfig, to_dict


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or one of its variants "paper" or "smoke"."""
    config = ConfigDict(to_dict(ExperimentConfig()))
    config.data.name = "perov5"
    config.data.properties = ("heat_ref",)
    config.model.conditioning = "cds"
    config.loss.species_given = 0.3
    config.training.num_steps = 40_000
    config.training.optimizer = "muon"
    config.sampling.corrector_step_size = 1e-6
    config.sampling.update(solver="second_order", num_steps=50)

    match variant:
        case "":
            pass
        case "paper":
            config.training.optimizer = "adam"
            config.model.mean_free_score = False
            config.loss.update(species_cross_entropy=0.0, condition_dropout=0.0, species_given=0.0)
            config.sampling.update(solver="ancestral", num_steps=0, sizes_by_property=False)
        case "smoke":
            config.loss.species_given = 0.0
            config.noise.num_steps = 50
            config.model.update(width=16, pair_hidden_width=16, num_blocks=1, num_heads=2)
            config.training.update(num_steps=10, batch_size=32, warmup_steps=5)
            config.training.update(steps_per_call=5, log_every=5, checkpoint_every=10)
        case _:
            raise ValueError(f'there is no variant "{variant}"; choose "", "paper" or "smoke"')
    return config
