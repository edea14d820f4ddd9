"""oracles/dimenet.py against the original network, and its gradient against finite differences."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from crystal_diffusion_jax.oracles import dimenet
from crystal_diffusion_jax.oracles.batching import (
    BatchShape,
    CrystalGraph,
    GraphBatch,
    pad,
    triplets,
)
from tests import golden
from tests.potential_crystals import in_float64

ORACLES = ["perov5", "carbon24", "mp20"]

# The most that an output moves, in float64, when the lattices or all parameters are rounded to
# float32 once. Carbon's short bonds are where the envelope is steepest.
ONE_ROUNDING = {"perov5": 3.2e-7, "carbon24": 9e-6, "mp20": 2.5e-7}
# In float32 some ten roundings follow each other from the lattice to a Bessel function, and a sum
# of 128 products rounds like a random walk of 128 steps: 11 roundings. Without fused products,
# which not every processor has, the outputs are up to two roundings off.
ROUNDINGS = 16

# Of all batches here, so that each network is compiled once for float32 and once for float64.
SHAPE = BatchShape(crystals=32, atoms=256, bonds=512, triplets=8192)

_forward = jax.jit(dimenet.forward)


def parameters(oracle: str) -> dict[str, Array]:
    return {name: jnp.asarray(value) for name, value in golden.network(oracle).parameters.items()}


def batches(graphs: list[CrystalGraph]) -> Iterator[tuple[list[int], GraphBatch]]:
    """The graphs in their order, as many in each batch as there is room for."""
    members: list[int] = []
    # The last crystal and one atom at least are padding.
    full = np.array([SHAPE.crystals - 1, SHAPE.atoms - 1, SHAPE.bonds, SHAPE.triplets])
    room = full.copy()
    for index, graph in enumerate(graphs):
        size = (1, len(graph.atomic_numbers), len(graph.bonds), len(triplets(graph.bonds)))
        room -= size
        if room.min() < 0:
            yield members, pad([graphs[member] for member in members], SHAPE)
            members = []
            room = full - (
                1,
                len(graph.atomic_numbers),
                len(graph.bonds),
                len(triplets(graph.bonds)),
            )
        members.append(index)
    yield members, pad([graphs[member] for member in members], SHAPE)


def outputs(oracle: str, graphs: list[CrystalGraph]) -> np.ndarray:
    found = np.full(len(graphs), np.nan)
    for members, batch in batches(graphs):
        found[members] = np.asarray(_forward(parameters(oracle), batch))[: len(members)]
    return found


@jax.jit
def inside(network: dict[str, Array], batch: GraphBatch) -> dict[str, Array]:
    """The output and all tensors on the way to it."""
    basis = dimenet.basis_functions(network, batch)
    # By triplet, [T, 7 * 6]: what the network never writes out.
    spherical = basis.radial[batch.far_bond] * basis.harmonics[..., None]
    found = {
        "dist": jnp.linalg.norm(dimenet.bond_vectors(batch), axis=-1),
        "rbf": basis.rbf,
        "sbf": spherical.reshape(spherical.shape[0], -1),
        "output": dimenet.forward(network, batch),
    }
    for t, message in enumerate(dimenet.messages(network, basis, batch)):
        found[f"m{t}"] = message
        found[f"P{t}"] = dimenet.atom_contributions(network, t, message, basis, batch)[:, None]
    return found


def inside_in_float64(oracle: str, batch: GraphBatch) -> dict[str, np.ndarray]:
    with jax.enable_x64(True):
        found = inside(in_float64(parameters(oracle)), in_float64(batch))
        return {name: np.asarray(value) for name, value in found.items()}


@pytest.mark.parametrize("oracle", ORACLES)
def test_from_given_bonds_the_output_is_that_of_the_original(oracle: str) -> None:
    graphs = [golden.graph(crystal) for crystal in golden.crystals(oracle)]
    found = np.full(len(graphs), np.nan)
    for members, batch in batches(graphs):
        found[members] = inside_in_float64(oracle, batch)["output"][: len(members)]
    # The original made its lattices of lengths and angles in float32, and went on in float64.
    exact = golden.column(oracle, "prediction_scaled_float64")
    np.testing.assert_allclose(found, exact, rtol=0, atol=2 * ONE_ROUNDING[oracle])
    np.testing.assert_allclose(
        outputs(oracle, graphs), found, rtol=0, atol=ROUNDINGS * ONE_ROUNDING[oracle]
    )


def slopes(
    network: dict[str, Array], batch: GraphBatch, lattice: Array, frac_coords: Array
) -> tuple[Array, Array, Array]:
    """Outputs [B], and how each changes along a direction in lattice and in coordinates: [B]."""

    def total(place: tuple[Array, Array]) -> tuple[Array, Array]:
        moved = batch.replace(lattice=place[0], frac_coords=place[1])  # type: ignore[attr-defined]
        outputs = dimenet.forward(network, moved)
        return outputs.sum(), outputs

    place = (batch.lattice, batch.frac_coords)
    (_, outputs), (by_lattice, by_coords) = jax.value_and_grad(total, has_aux=True)(place)
    along_atoms = jnp.sum(by_coords * frac_coords, axis=-1)
    along_coords = jax.ops.segment_sum(along_atoms, batch.crystal, len(outputs))
    return outputs, jnp.sum(by_lattice * lattice, axis=(1, 2)), along_coords


def test_gradients_are_those_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dimenet, "NUM_BLOCKS", 1)  # the others are of the same operations
    compiled = jax.jit(slopes)
    shape = BatchShape(crystals=6, atoms=40, bonds=200, triplets=1500)
    step = 1e-6
    rng = np.random.default_rng(0)
    for oracle in ORACLES:
        # Straight chains, as in perovskites, and bonds of atoms to their own images are among them.
        crystals = golden.crystals(oracle)
        chosen = [c for c in crystals if len(c["edges_j"]) < 60][:3]
        chosen += [c for c in crystals if has_self_bonds(c) and len(c["edges_j"]) < 60][:1]
        network = in_float64(parameters(oracle))
        batch = in_float64(pad([golden.graph(crystal) for crystal in chosen], shape))
        directions = {
            "lattice": rng.normal(size=batch.lattice.shape),
            "frac_coords": rng.normal(size=batch.frac_coords.shape),
        }

        def at(distance: float, field: str) -> list[np.ndarray]:
            value = np.asarray(getattr(batch, field)) + distance * directions[field]  # noqa: B023
            with jax.enable_x64(True):
                moved = batch.replace(**{field: jnp.asarray(value)})  # type: ignore[attr-defined]  # noqa: B023
                found = compiled(network, moved, *directions.values())  # noqa: B023
                return [np.asarray(part)[: len(chosen)] for part in found]  # noqa: B023

        for place, field in enumerate(directions, start=1):
            slope = at(0.0, field)[place]
            found = (at(step, field)[0] - at(-step, field)[0]) / (2 * step)
            # Rounding: some 1e-15 of outputs of order 1, over the step. Curvature: no factor of the
            # network oscillates faster than z_66 / cutoff = 4 / A, so (4 step)^2 of the slope.
            np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-8)
            assert np.abs(found).max() > 1e-4


@pytest.mark.parametrize("oracle", ORACLES)
def test_merged_layers_change_no_digit_that_counts(oracle: str) -> None:
    graphs = [golden.graph(crystal) for crystal in golden.crystals(oracle)]
    merged = dimenet.merge_layers(golden.network(oracle).parameters)
    dropped = set(golden.network(oracle).parameters) - set(merged)
    assert dropped == {
        f"output_blocks.{t}.lin_up.{part}" for t in range(5) for part in ("weight", "bias")
    }
    found = np.full(len(graphs), np.nan)
    for members, batch in batches(graphs):
        found[members] = np.asarray(_forward(merged, batch))[: len(members)]
    exact = golden.column(oracle, "prediction_scaled_float64")
    # As `test_from_given_bonds_the_output_is_that_of_the_original` for the layers as published.
    atol = (2 + ROUNDINGS) * ONE_ROUNDING[oracle]
    np.testing.assert_allclose(found, exact, rtol=0, atol=atol)


def has_self_bonds(crystal: dict[str, Any]) -> bool:
    return any(j == i for j, i in zip(crystal["edges_j"], crystal["edges_i"], strict=True))


def test_doubled_bonds_of_atoms_to_their_own_images_count_twice() -> None:
    # Under the rule of later pymatgen versions each of them occurs once.
    crystals = [crystal for crystal in golden.crystals("mp20") if has_self_bonds(crystal)]
    assert len(crystals) == 6
    single = []
    for crystal in crystals:
        graph = golden.graph(crystal)
        own = graph.bonds[:, 0] == graph.bonds[:, 1]
        bonds = np.concatenate([graph.bonds[~own], np.unique(graph.bonds[own], axis=0)])
        single.append(dataclasses.replace(graph, bonds=bonds))
    network = golden.network("mp20")
    found = outputs("mp20", single) * network.std + network.mean
    expected = [crystal["prediction_new_pymatgen_graph"] for crystal in crystals]
    atol = 2 * ROUNDINGS * ONE_ROUNDING["mp20"] * network.std  # the original rounds as well
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    assert np.abs(found - [crystal["prediction"] for crystal in crystals]).max() > 1e-3


def test_predictions_do_not_depend_on_the_batch_or_its_order() -> None:
    graphs = [golden.graph(crystal) for crystal in golden.crystals("mp20")[:12]]
    together = outputs("mp20", graphs)
    atol = 2 * ROUNDINGS * ONE_ROUNDING["mp20"]
    np.testing.assert_allclose(outputs("mp20", graphs[::-1])[::-1], together, rtol=0, atol=atol)
    np.testing.assert_allclose(outputs("mp20", graphs[3:4]), together[3:4], rtol=0, atol=atol)


def test_junk_in_the_padding_changes_nothing() -> None:
    graphs = [golden.graph(crystal) for crystal in golden.crystals("perov5")[:3]]
    batch = pad(graphs, SHAPE)
    num_atoms = sum(len(graph.atomic_numbers) for graph in graphs)
    changed = {
        name: np.array(getattr(batch, name))
        for name in ("frac_coords", "lattice", "atomic_numbers")
    }
    changed["frac_coords"][num_atoms:] = 0.37
    changed["lattice"][3:] *= 1.7
    changed["atomic_numbers"][num_atoms:] = 79
    junk = batch.replace(**{name: jnp.asarray(x) for name, x in changed.items()})  # type: ignore[attr-defined]
    network = parameters("perov5")
    np.testing.assert_array_equal(
        np.asarray(_forward(network, junk))[:3], np.asarray(_forward(network, batch))[:3]
    )


# The three crystals of the intermediate tensors: the first rows of CDVAE's test tables, which are
# among these rows of the data sets or, for the integers, among the golden crystals.
INTERMEDIATE = [
    ("perov5", 0, ("val", "3961")),
    ("perov5", 1, ("train", "11922")),
    ("perov5", 2, 0),
    ("carbon24", 0, ("train", "C-13927-8536-14")),
    ("carbon24", 1, 0),
    ("carbon24", 2, ("train", "C-92152-5470-22")),
    ("mp20", 0, ("test", "mp-10009")),
    ("mp20", 1, 0),
    ("mp20", 2, ("test", "mp-1224266")),
]


def intermediate_graph(oracle: str, prefix: str, place: int | tuple[str, str]) -> CrystalGraph:
    if isinstance(place, int):
        return golden.graph(golden.crystals(oracle)[place])
    split, material_id = place
    (row,) = (row for row in golden.table(oracle, split) if row["material_id"] == material_id)
    structure = golden.reduced_structure(row["cif"])
    tensors = golden.intermediates(oracle)
    bonds = [*tensors[f"{prefix}edge_index"], *tensors[f"{prefix}to_jimages"].T]
    return CrystalGraph(
        lattice=structure.lattice.matrix,
        # What rounding has left just below 1 was 0 for the original, whose images refer to that.
        frac_coords=structure.frac_coords - (structure.frac_coords > 1 - 1e-6),
        atomic_numbers=np.array(structure.atomic_numbers),
        bonds=np.stack(bonds, axis=1),
    )


@pytest.mark.parametrize(("oracle", "number", "place"), INTERMEDIATE)
def test_every_tensor_inside_the_network_is_that_of_the_original(
    oracle: str, number: int, place: int | tuple[str, str]
) -> None:
    prefix = f"c{number}_"
    original = golden.intermediates(oracle)
    graph = intermediate_graph(oracle, prefix, place)
    # In float64, so that all rounding is the original's, which was in float32.
    found = inside_in_float64(oracle, pad([graph], SHAPE))
    found["out"] = found.pop("output")[:, None]

    # The original lists the triplets of a bond in another order.
    order = np.lexsort((original[f"{prefix}idx_kj"], original[f"{prefix}idx_ji"]))
    listed = np.stack([original[f"{prefix}idx_ji"], original[f"{prefix}idx_kj"]], axis=1)[order]
    own = triplets(graph.bonds)
    mine = np.lexsort(own.T[::-1])
    np.testing.assert_array_equal(own[mine], listed)
    found["sbf"] = found["sbf"][mine]
    for name, value in found.items():
        expected = original[prefix + name]
        if name == "sbf":
            expected = expected[order]
        # Of the largest entry: at carbon's short bonds the original's closed-form Bessel functions
        # are off by 3e-4, in a tensor with entries up to 13.
        atol = 1e-4 * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(
            value[: len(expected)], expected, rtol=0, atol=atol, err_msg=f"{name} of {oracle}"
        )
