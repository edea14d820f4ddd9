"""What a user asks of the sampler, turned into arrays: targets, elements, numbers of atoms."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data import profile
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.errors import UserError, did_you_mean
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.request import Target, show_range
from crystal_diffusion_jax.structures.limits import MAX_PROPERTY


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


def refuse_other_network(
    params: Any, denoiser: Denoiser, num_properties: int, model: Path | str
) -> None:
    """Names a model whose weights are not those of the network that it describes.

    Args:
      params: its weights.
      denoiser: the network.
      num_properties: P.
      model: where they come from, for the message.

    Raises:
      UserError: a weight is missing, too many, or of another shape.
    """
    one = Crystals(
        lattice=jnp.ones((1, 3, 3)),
        frac_coords=jnp.zeros((1, 1, 3)),
        species=jnp.zeros((1, 1), jnp.int32),
        mask=jnp.ones((1, 1), bool),
    )
    condition = Condition(
        values=jnp.zeros((1, num_properties)), present=jnp.ones((1, num_properties), bool)
    )
    initialise = functools.partial(denoiser.init, jax.random.key(0))
    wanted = _shapes(jax.eval_shape(initialise, one, jnp.ones(1, jnp.int32), condition)["params"])
    found = _shapes(params)
    for name in sorted(wanted | found):
        if wanted.get(name) != found.get(name):
            raise UserError(
                f"--model={model} has weights of another network than its model.json describes: "
                f"{name} is {found.get(name, 'missing')} there and {wanted.get(name, 'absent')} in "
                "the network; copy the model again."
            )


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return {name: tuple(leaf.shape) for name, leaf in flat.items()}


def parse_target(text: str, statistics: DatasetStatistics) -> Target:
    """Reads "min", "max", "none", a number or a range, or NAME=... for some of several properties.

    Args:
      text: for example "min", "0.44", "-2.5:-2.0" or "band_gap=1.5:2,density=max".
      statistics: of the model; min and max are those of its training data.

    Returns:
      Requested range of each property asked for, in its own unit; empty for "none".

    Raises:
      UserError: not a number, or a property that the model does not know.
    """
    if text == "none":
        return {}
    names = statistics.property_names
    known = ", ".join(names)
    target: Target = {}
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
            meant = did_you_mean(name, names)
            raise UserError(
                f"--target={text}: the model has no property {name!r}, but {known}{meant}"
            )
        index = names.index(name)
        ends = {"min": statistics.property_min[index], "max": statistics.property_max[index]}
        low, colon, high = value.partition(":")
        numbers = [_number(end, ends, text) for end in ((low, high) if colon else (value, value))]
        if numbers[0] > numbers[1]:
            raise UserError(f"--target={text}: a range is LOWEST:HIGHEST, as in {high}:{low}")
        target[name] = (numbers[0], numbers[1])
    return target


def _number(value: str, ends: dict[str, float], text: str) -> float:
    try:
        number = ends[value] if value in ends else float(value)
    except ValueError:
        number = np.nan
    if not abs(number) <= MAX_PROPERTY:
        raise UserError(
            f'--target={text}: {value!r} is not a number in range, "min", "max" or "none"'
        )
    return number


def outside_training_range(target: Target, statistics: DatasetStatistics) -> list[str]:
    """One sentence for each requested value or range that the training data do not reach."""
    sentences = []
    for name, asked in target.items():
        index = statistics.property_names.index(name)
        low, high = statistics.property_min[index], statistics.property_max[index]
        if not low <= asked[0] <= asked[1] <= high:
            sentences.append(
                f"the target {name}={show_range(asked)} is outside the training range "
                f"{low:g} .. {high:g}: the model extrapolates"
            )
    return sentences


def condition_arrays(
    values: dict[str, np.ndarray], statistics: DatasetStatistics, batch_size: int
) -> Condition:
    """The requested values as z-scores.

    Args:
      values: [B] of each property asked for, in its own unit.
      statistics: of the model.
      batch_size: B.
    """
    names = statistics.property_names
    columns = [
        (values.get(name, np.full(batch_size, mean)) - mean) / std
        for name, mean, std in zip(
            names, statistics.property_mean, statistics.property_std, strict=True
        )
    ]
    shape = (batch_size, len(names))
    return Condition(
        values=jnp.asarray(np.array(columns).T.reshape(shape), jnp.float32),
        present=jnp.broadcast_to(jnp.asarray([name in values for name in names], bool), shape),
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
    values: dict[str, np.ndarray],
    num: int,
    seed: int,
    num_atoms: int | None,
    statistics: DatasetStatistics,
) -> np.ndarray:
    """[num] atoms of each crystal: as asked for, or drawn from p(N | requested values).

    The probabilities are those of the training crystals whose property is in the same bin
    (`data.profile`). Those of several properties are multiplied as if they were independent for
    each N. Without a property, or where the bin is empty, it is the histogram of the training data.

    Args:
      values: [num] requested value of each property asked for.
      num: crystals.
      seed: of the draw.
      num_atoms: in every crystal, None to draw it.
      statistics: of the model.

    Raises:
      UserError: a number outside the range of the training data.
    """
    sizes, counts = np.array(statistics.num_atoms_histogram).T
    if num_atoms is not None:
        if not sizes.min() <= num_atoms <= sizes.max():
            known = f"{sizes.min()} to {sizes.max()}" if len(sizes) > 1 else f"{sizes[0]}"
            raise UserError(f"--num_atoms={num_atoms}: the model was trained on {known} atoms")
        return np.full(num, num_atoms)
    prior = counts / counts.sum()
    probabilities = np.broadcast_to(prior, (num, len(sizes)))
    if statistics.num_atoms_by_property:
        for name, asked in values.items():
            index = statistics.property_names.index(name)
            table = np.array(statistics.num_atoms_by_property[index], float)
            bins = profile.bin_of(asked, statistics.property_quantiles[index], len(table))
            given = table[bins]  # [num, S]
            probabilities = probabilities * given / prior
    total = probabilities.sum(axis=1, keepdims=True)
    probabilities = np.where(total > 0, probabilities / np.where(total > 0, total, 1.0), prior)
    draws = np.random.default_rng(seed).random((num, 1))
    return sizes[np.minimum(np.sum(draws > probabilities.cumsum(axis=1), axis=1), len(sizes) - 1)]
