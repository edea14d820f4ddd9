"""What a user asks of the sampler, turned into arrays: targets, elements, numbers of atoms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.data.limits import MAX_PROPERTY
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.models.embeddings import Condition


def refuse_non_finite_weights(params: Any, model: Path | str) -> None:
    """Names a model that could only give crystals of NaN.

    Args:
      params: its weights.
      model: where they come from, for the message.

    Raises:
      UserError: a weight is NaN or infinite.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(leaf).all():
            raise UserError(
                f"--model={model} has weights that are NaN or infinite, in "
                f"{jax.tree_util.keystr(path, simple=True, separator='/')}: its training has gone "
                "wrong; use another model."
            )


def parse_target(text: str, statistics: DatasetStatistics) -> dict[str, float]:
    """Reads "min", "max", "none" or a number, or NAME=... for some of several properties.

    Args:
      text: for example "min", "0.44" or "band_gap=1.5,density=max".
      statistics: of the model; min and max are those of its training data.

    Returns:
      Requested value of each property asked for, in its own unit; empty for "none".

    Raises:
      UserError: not a number, or a property that the model does not know.
    """
    if text == "none":
        return {}
    names = statistics.property_names
    known = ", ".join(names)
    target: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.rpartition("=")
        if not equals:
            if len(names) != 1:
                raise UserError(
                    f"--target={text}: this model knows the properties {known}; "
                    "say which one, as in --target=NAME=VALUE"
                )
            name = names[0]
        if name in target:
            raise UserError(f"--target={text}: {name} is asked for twice")
        if name not in names:
            raise UserError(f"--target={text}: the model has no property {name!r}, but {known}")
        index = names.index(name)
        ends = {"min": statistics.property_min[index], "max": statistics.property_max[index]}
        try:
            number = ends[value] if value in ends else float(value)
        except ValueError:
            number = np.nan
        if not abs(number) <= MAX_PROPERTY:
            raise UserError(
                f'--target={text}: {value!r} is not a number in range, "min", "max" or "none"'
            )
        target[name] = number
    return target


def outside_training_range(target: dict[str, float], statistics: DatasetStatistics) -> list[str]:
    """One sentence for each requested value that the training data do not reach."""
    sentences = []
    for name, value in target.items():
        index = statistics.property_names.index(name)
        low, high = statistics.property_min[index], statistics.property_max[index]
        if not low <= value <= high:
            sentences.append(
                f"the target {name}={value:g} is outside the training range {low:g} .. {high:g}: "
                "the model extrapolates"
            )
    return sentences


def condition_arrays(
    target: dict[str, float], statistics: DatasetStatistics, batch_size: int
) -> Condition:
    """The request as z-scores, the same for every crystal of a batch of the given size."""
    names = statistics.property_names
    values = [
        (target.get(name, mean) - mean) / std
        for name, mean, std in zip(
            names, statistics.property_mean, statistics.property_std, strict=True
        )
    ]
    shape = (batch_size, len(names))
    return Condition(
        values=jnp.broadcast_to(jnp.asarray(values, jnp.float32), shape),
        present=jnp.broadcast_to(jnp.asarray([name in target for name in names], bool), shape),
    )


def allowed_species(elements: Sequence[int] | None, statistics: DatasetStatistics) -> np.ndarray:
    """[K] True for the atomic numbers in `elements`, for all if that is None.

    Raises:
      UserError: an element that the model never saw.
    """
    vocabulary = np.array(statistics.vocabulary)
    if elements is None:
        return np.ones(len(vocabulary), dtype=bool)
    unknown = sorted(set(elements) - set(statistics.vocabulary))
    if unknown:
        raise UserError(
            f"--elements: atomic numbers {unknown} do not occur in the model's training data, "
            f"which have {sorted(statistics.vocabulary)}"
        )
    return np.isin(vocabulary, list(elements))


def draw_num_atoms(
    num: int, seed: int, num_atoms: int | None, statistics: DatasetStatistics
) -> np.ndarray:
    """[num] atoms of each crystal: as asked for, or drawn from the training histogram.

    Raises:
      UserError: a number outside the range of the training data.
    """
    sizes, counts = np.array(statistics.num_atoms_histogram).T
    if num_atoms is None:
        return np.random.default_rng(seed).choice(sizes, size=num, p=counts / counts.sum())
    if not sizes.min() <= num_atoms <= sizes.max():
        raise UserError(
            f"--num_atoms={num_atoms}: the model was trained on {sizes.min()} to {sizes.max()} "
            "atoms"
        )
    return np.full(num, num_atoms)
