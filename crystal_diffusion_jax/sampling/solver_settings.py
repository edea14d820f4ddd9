"""The defaults of the solver: the model's, those for few steps, and those for given formulas."""

import dataclasses

from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.errors import UserError, require_between
from crystal_diffusion_jax.request import (
    ANCESTRAL,
    FEW_STEPS,
    FEW_STEPS_CORRECTOR,
    PREDICTION_RENOISING_STEPS,
    PREDICTION_STEPS,
    SECOND_ORDER,
    Solver,
)

# More take hours, and are surely a mistake.
MAX_RENOISING_STEPS = 1000
MAX_AVERAGING_ROUNDS = 1000


@dataclasses.dataclass(frozen=True)
class SolverSettings:
    """Complete settings of the reverse process; the fields are those of `request.Request`."""

    solver: Solver
    num_steps: int
    corrector_step_size: float
    renoising_steps: int
    averaging_rounds: int


def solver_settings(
    config: ExperimentConfig,
    predicts: bool,
    solver: Solver | None,
    num_steps: int | None,
    corrector_step_size: float | None,
    renoising_steps: int | None,
    averaging_rounds: int | None,
) -> SolverSettings:
    """Fills in the settings that are None.

    Args:
      config: of the model.
      predicts: whether compositions are given.
      solver: by default ancestral, or second order where compositions are given.
      num_steps: by default as trained; with the second-order solver `FEW_STEPS`, and
        `PREDICTION_STEPS` for given compositions.
      corrector_step_size: by default that of the config, larger with the second-order solver, 0
        with renoising steps, which take the corrector's place.
      renoising_steps: by default those of the config with the ancestral solver; with the
        second-order solver 0, and `PREDICTION_RENOISING_STEPS` for given compositions; 0 with a
        given `corrector_step_size`.
      averaging_rounds: by default those of the config.

    Raises:
      UserError: a value out of range, or two that exclude each other; it names the flag.
    """
    trained_steps = config.noise.num_steps
    default_steps, default_step_size = trained_steps, config.sampling.corrector_step_size
    default_renoising = config.sampling.renoising_steps
    if solver is None:
        solver = SECOND_ORDER if predicts else ANCESTRAL
    if solver == SECOND_ORDER:
        default_steps, default_renoising = FEW_STEPS, 0
        if predicts:
            default_steps, default_renoising = PREDICTION_STEPS, PREDICTION_RENOISING_STEPS
        few_step_size = FEW_STEPS_CORRECTOR * config.noise.frac_sigma_min**2
        # Six digits, as people write it: 8e-06, not 8.000000000000001e-06.
        default_step_size = float(f"{max(few_step_size, default_step_size):.6g}")
    if renoising_steps is None:
        renoising_steps = default_renoising if corrector_step_size is None else 0
    if renoising_steps:
        default_step_size = 0.0
    if averaging_rounds is None:
        averaging_rounds = config.sampling.averaging_rounds
    if num_steps is None:
        num_steps = min(default_steps, trained_steps)
    if corrector_step_size is None:
        corrector_step_size = default_step_size
    require_between("num_steps", num_steps, 1, trained_steps)
    require_between("corrector_step_size", corrector_step_size, 0, float("inf"))
    require_between("renoising_steps", renoising_steps, 0, MAX_RENOISING_STEPS)
    require_between("averaging_rounds", averaging_rounds, 0, MAX_AVERAGING_ROUNDS)
    if corrector_step_size and renoising_steps:
        raise UserError(
            "--renoising_steps replace the corrector that --corrector_step_size is for: give only "
            "one of them"
        )
    return SolverSettings(
        solver, num_steps, float(corrector_step_size), renoising_steps, averaging_rounds
    )
