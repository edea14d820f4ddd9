"""The defaults of the solver: the model's, the paper's, and those for few steps or formulas."""

import dataclasses

from crystal_diffusion_jax.config import ANCESTRAL, SECOND_ORDER, SOLVERS, ExperimentConfig, Solver
from crystal_diffusion_jax.errors import UserError, require_between
from crystal_diffusion_jax.request import (
    FEW_STEPS,
    FEW_STEPS_CORRECTOR,
    NOISE,
    PAPER,
    PREDICTION_RENOISING_STEPS,
    PREDICTION_STEPS,
    TEMPLATE,
    TEMPLATE_START_TIME,
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
    start_time: int = 0

    def __str__(self) -> str:
        """For example "1000 ancestral steps, corrector 1e-06"."""
        parts = [f"{self.num_steps} {self.solver} steps".replace("_", "-")]
        if self.corrector_step_size:
            parts.append(f"corrector {self.corrector_step_size:g}")
        if self.renoising_steps:
            parts.append(f"{self.renoising_steps} renoising steps")
        if self.averaging_rounds:
            parts.append(f"{self.averaging_rounds} rounds of averaging")
        if self.start_time:
            parts.append(f"from templates at time {self.start_time}")
        return ", ".join(parts)


def solver_settings(
    config: ExperimentConfig,
    predicts: bool,
    sampler: str | None = None,
    solver: Solver | None = None,
    num_steps: int | None = None,
    corrector_step_size: float | None = None,
    renoising_steps: int | None = None,
    averaging_rounds: int | None = None,
    start: str | None = None,
) -> SolverSettings:
    """Fills in the settings that are None.

    Args:
      config: of the model.
      predicts: whether compositions are given.
      sampler: "paper" for the paper's predictor and corrector at all times of the noise, from pure
        noise, unless another argument says otherwise; None for the defaults below.
      solver: by default the model's, or second order where compositions are given.
      num_steps: by default the model's with the model's solver; with the other one `FEW_STEPS` in
        second order, and all times of the noise in ancestral steps; `PREDICTION_STEPS` for given
        compositions.
      corrector_step_size: by default that of the config, larger with the second-order solver, 0
        with renoising steps, which take the corrector's place.
      renoising_steps: by default the model's with the model's solver or the ancestral one, else 0;
        `PREDICTION_RENOISING_STEPS` for given compositions; 0 with a given `corrector_step_size`.
      averaging_rounds: by default the model's.
      start: "noise", "template" or "template:T"; by default the model's.

    Raises:
      UserError: an unknown name, a value out of range, or two that exclude each other; it names
        the flag.
    """
    trained_steps, own = config.noise.num_steps, config.sampling
    own_solver: Solver = SECOND_ORDER if own.solver == SECOND_ORDER else ANCESTRAL
    if sampler not in (None, PAPER):
        raise UserError(f"--sampler={sampler} is unknown; {PAPER} is the only one with a name")
    if solver not in (None, *SOLVERS):
        raise UserError(f"--solver={solver} is unknown; it is {' or '.join(SOLVERS)}")
    default = SolverSettings(
        solver=own_solver,
        num_steps=own.num_steps or trained_steps,
        corrector_step_size=own.corrector_step_size,
        renoising_steps=own.renoising_steps,
        averaging_rounds=own.averaging_rounds,
        start_time=min(own.start_time, trained_steps),
    )
    if sampler == PAPER:
        default = dataclasses.replace(
            default,
            solver=ANCESTRAL,
            num_steps=trained_steps,
            renoising_steps=0,
            averaging_rounds=0,
            start_time=0,
        )
    elif predicts:
        default = dataclasses.replace(
            default,
            solver=SECOND_ORDER,
            num_steps=PREDICTION_STEPS,
            renoising_steps=PREDICTION_RENOISING_STEPS,
        )
    if solver == ANCESTRAL and default.solver != ANCESTRAL:
        default = dataclasses.replace(
            default, num_steps=trained_steps, renoising_steps=own.renoising_steps
        )
    if solver == SECOND_ORDER and default.solver != SECOND_ORDER:
        default = dataclasses.replace(default, num_steps=FEW_STEPS, renoising_steps=0)
    if solver is None:
        solver = default.solver
    step_size = default.corrector_step_size
    if solver == SECOND_ORDER:
        few_step_size = FEW_STEPS_CORRECTOR * config.noise.frac_sigma_min**2
        # Six digits, as people write it: 8e-06, not 8.000000000000001e-06.
        step_size = float(f"{max(few_step_size, step_size):.6g}")
    if renoising_steps is None:
        renoising_steps = default.renoising_steps if corrector_step_size is None else 0
    if renoising_steps:
        step_size = 0.0
    if num_steps is None:
        num_steps = min(default.num_steps, trained_steps)
    if corrector_step_size is None:
        corrector_step_size = step_size
    if averaging_rounds is None:
        averaging_rounds = default.averaging_rounds
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
        solver,
        num_steps,
        float(corrector_step_size),
        renoising_steps,
        averaging_rounds,
        default.start_time if start is None else _start_time(start, config),
    )


def _start_time(text: str, config: ExperimentConfig) -> int:
    """Reads "noise", "template" or "template:T" into the time at which crystals start."""
    if text == NOISE:
        return 0
    num_steps = config.noise.num_steps
    kind, colon, time = text.partition(":")
    start = int(time) if time.isascii() and time.isdigit() else 0
    if kind != TEMPLATE or (colon and not 1 <= start <= num_steps):
        raise UserError(
            f"--start={text} must be {NOISE}, {TEMPLATE} or {TEMPLATE}:T, with T a diffusion time "
            f"from 1 to {num_steps}"
        )
    return start or min(config.sampling.start_time or TEMPLATE_START_TIME, num_steps)
