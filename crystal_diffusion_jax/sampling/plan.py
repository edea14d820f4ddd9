"""A request as a whole: defaults filled in, everything checked against the model."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import (
    ANCESTRAL,
    SECOND_ORDER,
    SampleSettings,
    Solver,
    Target,
    draw_values,
)
from crystal_diffusion_jax.sampling import charges
from crystal_diffusion_jax.sampling.request import (
    allowed_species,
    draw_num_atoms,
    outside_training_range,
    refuse_non_finite_weights,
    refuse_other_network,
)
from crystal_diffusion_jax.structures.compositions import common_oxidation_states
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS
from crystal_diffusion_jax.trained_model import TrainedModel

# With so many second-order steps, and a corrector whose step is this share of sigma^2, crystals are
# as good as those of the whole chain (docs/few_step_sampling.md).
FEW_STEPS = 50
FEW_STEPS_CORRECTOR = 0.32
# More take hours, and a longer loop is surely a mistake.
MAX_RENOISING_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `generate` needs besides the model.

    Attributes:
      settings: the request with all its defaults.
      allowed: [K] species that may appear.
      num_atoms: [num] of each crystal.
      warnings: one sentence each.
    """

    settings: SampleSettings
    allowed: np.ndarray
    num_atoms: np.ndarray
    warnings: Sequence[str]


def plan(
    model: TrainedModel,
    name: str,
    target: Target,
    *,
    num: int,
    seed: int = 0,
    guidance: float = 0.0,
    solver: Solver = ANCESTRAL,
    num_steps: int | None = None,
    corrector_step_size: float | None = None,
    renoising_steps: int | None = None,
    elements: Sequence[tuple[str, int]] | None = None,
    chemical_system: bool = False,
    num_atoms: int | None = None,
    symprec: float = 0.1,
    charge_balance: bool = False,
) -> Plan:
    """Checks a request before the first crystal is computed.

    Args:
      model: the model.
      name: how the user calls it, for messages and the record.
      target: what is asked for, see `request.parse_target`.
      num: crystals.
      seed: of all randomness.
      guidance: weight of classifier-free guidance.
      solver: of the predictor.
      num_steps: of the reverse process; as trained, or `FEW_STEPS` with the second-order solver.
      corrector_step_size: step of the corrector; that of the model's config, larger for the second order,
        0 where relaxation steps take its place.
      renoising_steps: instead of the corrector; those of the model's config, 0 for the second
        order or where `corrector_step_size` is given.
      elements: symbols and atomic numbers that may appear, None for all that the model knows.
      chemical_system: reject crystals that lack one of `elements`.
      num_atoms: in every crystal, None to draw it.
      symprec: tolerance of the CIF files' symmetry in Angstrom.
      charge_balance: draw species whose oxidation states can add up to zero.

    Raises:
      UserError: something that does not fit the model; it names the flag.
    """
    num_properties = len(model.statistics.property_names)
    refuse_other_network(model.params, model.denoiser, num_properties, name)
    refuse_non_finite_weights(model.params, name)
    trained_steps = model.config.noise.num_steps
    default_steps, default_step_size = trained_steps, model.config.sampling.corrector_step_size
    if solver == SECOND_ORDER:
        default_steps = min(FEW_STEPS, trained_steps)
        few_step_size = FEW_STEPS_CORRECTOR * model.config.noise.frac_sigma_min**2
        # Six digits, as it is written in commands: 8e-06, not 8.000000000000001e-06.
        default_step_size = float(f"{max(few_step_size, default_step_size):.6g}")
    if renoising_steps is None:
        own = model.config.sampling.renoising_steps
        renoising_steps = own if solver == ANCESTRAL and corrector_step_size is None else 0
    if renoising_steps:
        default_step_size = 0.0
    num_steps = default_steps if num_steps is None else num_steps
    corrector_step_size = default_step_size if corrector_step_size is None else corrector_step_size
    for flag, value, low, high in (
        ("num", num, 1, MAX_CRYSTALS),
        ("num_steps", num_steps, 1, trained_steps),
        ("seed", seed, 0, 2**31 - 1),
        ("guidance", guidance, -math.inf, math.inf),
        ("corrector_step_size", corrector_step_size, 0, math.inf),
        ("renoising_steps", renoising_steps, 0, MAX_RENOISING_STEPS),
        ("symprec", symprec, 0, math.inf),
    ):
        require_between(flag, value, low, high)
    if corrector_step_size and renoising_steps:
        raise UserError(
            "--corrector_step_size is of the corrector, and --renoising_steps take its place: give one of them"
        )
    numbers = None if elements is None else [number for _, number in elements]
    allowed = allowed_species(numbers, model.statistics)
    values = draw_values(target, num, seed)
    sizes = draw_num_atoms(values, num, seed, num_atoms, model.statistics)
    _refuse_unconditional(model, name, target, guidance)
    settings = SampleSettings(
        model=name,
        model_sha256=model.weights_sha256,
        conditions={
            prop: list(asked) if asked[0] < asked[1] else asked[0] for prop, asked in target.items()
        },
        num=num,
        seed=seed,
        guidance=guidance,
        num_steps=num_steps,
        corrector_step_size=corrector_step_size,
        elements=None if elements is None else sorted({symbol for symbol, _ in elements}),
        num_atoms=num_atoms,
        symprec=symprec,
        solver=solver,
        chemical_system=chemical_system,
        renoising_steps=renoising_steps,
        charge_balance=charge_balance,
    )
    warnings = outside_training_range(target, model.statistics)
    known = common_oxidation_states(model.statistics.vocabulary)
    if charge_balance and not charges.can_balance(known, allowed.tolist()):
        warnings = [
            *warnings,
            "--charge_balance has no effect: common oxidation states of the elements that may "
            "appear never add up to zero",
        ]
    return Plan(settings, allowed, sizes, warnings)


def require_between(flag: str, value: float, low: float, high: float) -> None:
    """Checks the number of one flag.

    Raises:
      UserError: it is not finite, or outside `low` to `high`.
    """
    if not (math.isfinite(value) and low <= value <= high):
        limits = f"at least {low}" if high == math.inf else f"within {low} .. {high}"
        raise UserError(f"--{flag}={value} must be {'finite' if low == -high else limits}")


def _refuse_unconditional(model: TrainedModel, name: str, target: Target, guidance: float) -> None:
    """Refuses what the model's conditioning cannot do."""
    conditioning = model.config.model.conditioning
    if target and conditioning == "none":
        raise UserError(f"{name} was trained without a condition; use --target=none")
    if guidance and not target:
        raise UserError("--guidance steers towards a target, and --target=none asks for none")
    knows_null = model.config.loss.condition_dropout > 0
    needs_null = guidance != 0 or set(target) != set(model.statistics.property_names)
    if conditioning != "none" and needs_null and not knows_null:
        raise UserError(
            f"{name} was trained with condition_dropout=0, so it knows no crystals without "
            "a target: ask for every property, with --guidance=0"
        )
