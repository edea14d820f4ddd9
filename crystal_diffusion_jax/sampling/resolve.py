"""A user's arguments -> a complete `Request`: defaults filled in, checked against the model."""

import dataclasses
import math

from crystal_diffusion_jax.config import Solver
from crystal_diffusion_jax.data import training_crystals
from crystal_diffusion_jax.errors import UserError, require_between
from crystal_diffusion_jax.request import TEMPLATE, Request, range_text
from crystal_diffusion_jax.sampling.compositions import chemical_system as system_of
from crystal_diffusion_jax.sampling.compositions import compositions
from crystal_diffusion_jax.sampling.conditions import charges_can_balance, crystal_sizes
from crystal_diffusion_jax.sampling.formulas import AUTO, requested_formulas
from crystal_diffusion_jax.sampling.given import require_templates, without_template
from crystal_diffusion_jax.sampling.parse import parse_elements, parse_target, requested_classes
from crystal_diffusion_jax.sampling.solver_settings import solver_settings
from crystal_diffusion_jax.sampling.weights import check_weights
from crystal_diffusion_jax.structures.compositions import cell_formula
from crystal_diffusion_jax.structures.limits import MAX_CRYSTALS
from crystal_diffusion_jax.trained_model import TrainedModel

_MAX_TARGET_WARNINGS = 5
_MAX_NAMED = 5  # cells without a template


def resolve(
    model: TrainedModel,
    name: str,
    target: str = "none",
    *,
    num: int,
    seed: int = 0,
    guidance: float = 0.0,
    sampler: str | None = None,
    solver: Solver | None = None,
    num_steps: int | None = None,
    corrector_step_size: float | None = None,
    renoising_steps: int | None = None,
    averaging_rounds: int | None = None,
    elements: str | None = None,
    chemical_system: str | None = None,
    num_atoms: int | None = None,
    charge_balance: bool = False,
    symprec: float = 0.1,
    formula: str | None = None,
    formula_units: str | None = None,
    like: str | None = None,
    start: str | None = None,
) -> Request:
    """Checks a request before the first crystal is computed.

    Args:
      model: the model.
      name: path or name of the model as the user gave it.
      target: see `parse.parse_target`.
      num: crystals of each formula, or of all without formulas; as all arguments not listed here,
        see `request.Request`.
      sampler: like the five after it and `start`, see `solver_settings.solver_settings`.
      elements: symbols like "Ba,Ti,O".
      chemical_system: symbols like "Ba-Ti-O", instead of `elements`.
      formula: see `formulas.requested_formulas`.
      formula_units: the same; by default "auto".
      like: the same.

    Raises:
      UserError: something that does not fit the model; it names the flag.
    """
    check_weights(model, name)
    config, statistics = model.config, model.statistics
    for flag, value, low, high in (
        ("num", num, 1, MAX_CRYSTALS),
        ("seed", seed, 0, 2**31 - 1),
        ("guidance", guidance, -math.inf, math.inf),
        ("symprec", symprec, 0, math.inf),
    ):
        require_between(flag, value, low, high)
    _check_exclusive(
        elements=elements,
        chemical_system=chemical_system,
        num_atoms=num_atoms,
        charge_balance=charge_balance or None,
        formula=formula,
        formula_units=formula_units,
        like=like,
    )
    asked = parse_target(target, statistics)
    units = formula_units or (AUTO if formula is not None else "")
    formulas = requested_formulas(model, name, formula, units, like)
    if num * len(formulas) > MAX_CRYSTALS:
        raise UserError(
            f"--num={num} crystals of each of {len(formulas)} formulas are more than "
            f"{MAX_CRYSTALS:,}: give a smaller number"
        )
    for property_name in asked:
        if any(property_name in each.target for each in formulas):
            raise UserError(
                f"--target requests {property_name}, and so does a column of {formula}: leave one "
                "of them out"
            )
    predicts = bool(formulas) or (chemical_system is not None and model.predicts)
    settings = solver_settings(
        config,
        predicts,
        sampler,
        solver,
        num_steps,
        corrector_step_size,
        renoising_steps,
        averaging_rounds,
        start,
    )
    if settings.start_time and start is None and model.training_crystals() is None:
        settings = dataclasses.replace(settings, start_time=0)
    if settings.start_time and not model.predicts:
        raise UserError(
            f"--start={start}: {name} never saw a crystal's formula while it was trained "
            "(loss.species_given=0), so it cannot place given atoms in a template"
        )
    request = Request(
        model=name,
        model_sha256=model.weights_sha256,
        target=asked,
        num=num * max(len(formulas), 1),
        seed=seed,
        guidance=float(guidance),
        **dataclasses.asdict(settings),
        elements=parse_elements(elements, statistics.vocabulary, "elements"),
        chemical_system=parse_elements(chemical_system, statistics.vocabulary, "chemical_system"),
        num_atoms=num_atoms,
        charge_balance=charge_balance,
        symprec=float(symprec),
        classes=requested_classes(asked, statistics),
        formulas=formulas,
        formula=formula or "",
        formula_units=units,
        like=like or "",
    )
    _check_conditioning(model, request)
    if config.loss.species_given == 1 and not predicts:
        raise UserError(
            f"{name} was only trained with the formula given (loss.species_given=1), so it cannot "
            "choose one: give --formula, --like or --chemical_system"
        )
    if request.start_time:
        require_templates(model, name)
    crystal_sizes(request, model)  # checks num_atoms and compositions
    return request


# Conflicting flags -> how they conflict.
_EXCLUSIVE = (
    ("elements", "chemical_system", "exclude each other: give only one of them"),
    ("formula", "like", "exclude each other: give only one of them"),
    *(
        (flag, other, "exclude each other: a formula says all about the elements")
        for flag in ("formula", "like")
        for other in ("elements", "chemical_system", "charge_balance")
    ),
    ("formula", "num_atoms", "exclude each other: give --formula_units instead"),
    ("like", "num_atoms", "exclude each other: the cells are as large as those of the data"),
    ("like", "formula_units", "exclude each other: the cells are as large as those of the data"),
)


def _check_exclusive(**given: object) -> None:
    """Refuses flags that contradict each other; None for those that were not given."""
    for flag, other, reason in _EXCLUSIVE:
        if given[flag] is not None and given[other] is not None:
            raise UserError(f"--{flag} and --{other} {reason}")
    if given["formula_units"] is not None and given["formula"] is None:
        raise UserError("--formula_units counts units of --formula, and there is none: give both")


def warnings(request: Request, model: TrainedModel) -> list[str]:
    """A sentence for each part of a request that will not have the intended effect."""
    statistics, sentences = model.statistics, []
    for target, classes in request.targets():
        for name, asked in target.items():
            index = statistics.property_names.index(name)
            low, high = statistics.property_min[index], statistics.property_max[index]
            if not low <= asked[0] <= asked[1] <= high:
                sentences.append(
                    f"no training crystal has {name}={classes[name]}: the model does not know "
                    "what it means"
                    if name in classes
                    else f"the target {name}={range_text(asked)} is outside the training range "
                    f"{low:g} .. {high:g}: the model extrapolates"
                )
    # The formulas of a table may share what is requested.
    sentences = list(dict.fromkeys(sentences))
    if len(sentences) > _MAX_TARGET_WARNINGS:
        left = len(sentences) - _MAX_TARGET_WARNINGS
        sentences[_MAX_TARGET_WARNINGS:] = [f"the same for {left} more targets"]
    if request.chemical_system and model.predicts:
        if not system_of(request, statistics).neutral:
            sizes = request.num_atoms or "a possible number of"
            sentences.append(
                f"no composition of the chemical system with {sizes} atoms is neutral by common "
                "oxidation states: compositions are drawn from all of them"
            )
    elif request.charge_balance and not charges_can_balance(request, statistics):
        sentences.append(
            "--charge_balance has no effect: common oxidation states of the elements that may "
            "appear never add up to zero"
        )
    if request.start_time:
        sentences += _without_template(request, model)
    elif model.config.sampling.start_time and model.training_crystals() is None:
        sentences.append(
            f"{request.model} came without its training crystals ({training_crystals.FILE}), which "
            "are its templates: crystals start from noise, and come out further from relaxed"
        )
    return sentences


def _without_template(request: Request, model: TrainedModel) -> list[str]:
    """Says which crystals start from noise, though templates were asked for."""
    cells = compositions(request, model)
    if cells is None:  # drawn until they have a template, see `placing`
        return []
    found = without_template(cells, require_templates(model, request.model))
    if not found:
        return []
    named = list(dict.fromkeys(map(cell_formula, found)))
    if len(named) > _MAX_NAMED:
        named[_MAX_NAMED:] = [f"{len(named) - _MAX_NAMED} more"]
    return [
        f"--start={TEMPLATE}: no training crystal has as many atoms of each element in the cell as "
        f"{', '.join(named)}: {len(found)} of {request.num} crystals start from noise"
    ]


def _check_conditioning(model: TrainedModel, request: Request) -> None:
    """Refuses targets and guidance that the model was not trained for."""
    conditioning = model.config.model.conditioning
    names = [set(target) for target, _ in request.targets()]
    if any(names) and conditioning == "none":
        raise UserError(f"{request.model} was trained without a condition; use --target=none")
    if request.guidance and not any(names):
        raise UserError("--guidance steers towards a target, and --target=none gives it none")
    knows_null = model.config.loss.condition_dropout > 0
    every = set(model.statistics.property_names)
    needs_null = request.guidance != 0 or any(each != every for each in names)
    if conditioning != "none" and needs_null and not knows_null:
        raise UserError(
            f"{request.model} was trained with condition_dropout=0, so it cannot sample without a "
            "target: request every property, with --guidance=0"
        )
