"""CHGNet 0.3.0: energy, forces, stress and magnetic moments of a batch of crystals.

Source: Deng et al., Nature Machine Intelligence 5 (2023) 1031, with the conventions of the
published weights. Each weight is zero, with its first two derivatives, at the cutoff of its bonds,
so that the energy is smooth, and bonds and angles beyond the cutoffs change nothing.

Features have 64 columns. A first layer W [a, b, c] is applied to the parts, before they are
gathered: Wa a + Wb b + Wc c. The layers of one row are in `layers`.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from crystal_diffusion_jax.potentials.activations import silu
from crystal_diffusion_jax.potentials.batching import AtomBatch
from crystal_diffusion_jax.potentials.layers import (
    Parameters,
    gated_layer,
    linear,
    norm,
    two_layers,
    without_mean,
)
from crystal_diffusion_jax.potentials.neighbours import CUTOFF, SHORT_CUTOFF

GPA = 160.21766208  # GPa per eV/A^3

_LAST_CONVOLUTION = 3


@flax.struct.dataclass
class Outputs:
    """What the potential says of a batch.

    Attributes:
      energy: of each cell, in eV.
      forces: -dE/dx, in eV/A.
      stress: dE/dstrain / volume, in eV/A^3; positive when the cell would shrink.
      magnetic_moments: absolute, in Bohr magnetons.
    """

    energy: Float[Array, " crystals"]
    forces: Float[Array, "atoms 3"]
    stress: Float[Array, "crystals 3 3"]
    magnetic_moments: Float[Array, " atoms"]


def outputs(parameters: Parameters, batch: AtomBatch) -> Outputs:
    """Energy, its derivatives and the magnetic moments.

    Args:
      parameters: of `weights.load`.
      batch: the crystals; lists must be complete for its lattice and coordinates.
    """
    vectors = bond_vectors(batch)

    def total(vectors: Array) -> tuple[Array, tuple[Array, Array]]:
        energy, moments = energies(parameters, batch, vectors)
        return jnp.sum(energy), (energy, moments)

    # The energy depends on lattice and positions through the bonds alone.
    gradient, (energy, moments) = jax.grad(total, has_aux=True)(vectors)
    num_atoms, num_crystals = len(batch.crystal), len(batch.lattice)
    ends = jnp.concatenate([batch.first, batch.second])
    forces = jax.ops.segment_sum(jnp.concatenate([gradient, -gradient]), ends, num_atoms)
    virial = jax.ops.segment_sum(
        vectors[:, :, None] * gradient[:, None, :], batch.crystal[batch.first], num_crystals
    )
    volume = jnp.abs(jnp.linalg.det(batch.lattice))[:, None, None]
    # Symmetric up to rounding, as the energy does not change with rotations.
    stress = (virial + jnp.swapaxes(virial, 1, 2)) / (2 * volume)
    return Outputs(energy, forces, stress, moments)


def bond_vectors(batch: AtomBatch) -> Float[Array, "bonds 3"]:
    """From the first to the second atom of each bond, in Angstrom."""
    coords = batch.frac_coords
    difference = coords[batch.second] + batch.image - coords[batch.first]
    lattice = batch.lattice[batch.crystal[batch.first]]
    return jnp.einsum("bi,bij->bj", difference, lattice)


def energies(
    parameters: Parameters, batch: AtomBatch, vectors: Float[Array, "bonds 3"]
) -> tuple[Float[Array, " crystals"], Float[Array, " atoms"]]:
    """Energy of each cell in eV and magnetic moment of each atom, from the bonds.

    Args:
      parameters: of `weights.load`.
      batch: the crystals.
      vectors: of `bond_vectors`.
    """
    num_short = batch.num_short
    distance = jnp.linalg.norm(vectors, axis=-1)
    bond_basis = radial_basis(
        distance, parameters["bond_basis_expansion.rbf_expansion_ag.frequencies"], CUTOFF
    )
    short_basis = radial_basis(
        distance[:num_short],
        parameters["bond_basis_expansion.rbf_expansion_bg.frequencies"],
        SHORT_CUTOFF,
    )
    unit = vectors[:num_short] / distance[:num_short, None]
    unit = jnp.concatenate([unit, -unit])
    cosine = jnp.sum(unit[batch.left] * unit[batch.right], axis=-1)
    angle_basis = fourier_basis(
        cosine, parameters["angle_basis_expansion.fourier_expansion.frequencies"]
    )

    atoms = parameters["atom_embedding.embedding.weight"][batch.atomic_numbers - 1]
    bonds = bond_basis @ parameters["bond_embedding.weight"].T
    bond_weight = bond_basis @ parameters["bond_weights_ag.weight"].T
    short_weight = short_basis @ parameters["bond_weights_bg.weight"].T
    angles = angle_basis @ parameters["angle_embedding.weight"].T
    short, long = bonds[:num_short], bonds[num_short:]
    for layer in range(_LAST_CONVOLUTION):
        atoms = _update_atoms(parameters, layer, batch, atoms, short, long, bond_weight)
        short = _update_bonds(parameters, layer, batch, atoms, short, angles, short_weight)
        if layer < _LAST_CONVOLUTION - 1:
            angles = _update_angles(parameters, layer, batch, atoms, short, angles)
    moments = jnp.abs(linear(parameters, "site_wise", atoms)[:, 0])
    atoms = _update_atoms(parameters, _LAST_CONVOLUTION, batch, atoms, short, long, bond_weight)

    x = norm(parameters, "readout_norm", atoms)
    for index in (0, 2, 4):
        x = silu(linear(parameters, f"mlp.layers.{index}", x))
    site_energy = linear(parameters, "mlp.layers.7", x)[:, 0]
    site_energy += parameters["composition_model.fc.weight"][0, batch.atomic_numbers - 1]
    energy = jax.ops.segment_sum(
        site_energy, batch.crystal, len(batch.lattice), indices_are_sorted=True
    )
    return energy, moments


def radial_basis(
    distance: Float[Array, " bonds"], frequencies: Float[Array, " radial"], cutoff: float
) -> Float[Array, "bonds radial"]:
    """sqrt(2 / c) sin(f x) / r (1 - 45 x^8 + 80 x^9 - 36 x^10), x = r / c; zero for x > 1.

    Args:
      distance: r in Angstrom.
      frequencies: f, learned.
      cutoff: c in Angstrom.
    """
    x = distance / cutoff
    envelope = 1.0 + x**8 * (-45.0 + x * (80.0 - 36.0 * x))
    envelope = jnp.where(x < 1.0, envelope, 0.0) * (2.0 / cutoff) ** 0.5 / distance
    return jnp.sin(frequencies * x[:, None]) * envelope[:, None]


def fourier_basis(
    cosine: Float[Array, " angles"], frequencies: Float[Array, " fourier"]
) -> Float[Array, "angles columns"]:
    """1 / sqrt 2, sin(f theta), cos(f theta), all over sqrt pi.

    Args:
      cosine: of theta.
      frequencies: f, learned, so not whole numbers.
    """
    # The factor keeps the derivative finite at 0 and 180 degrees.
    theta = jnp.arccos(cosine * (1.0 - 1e-6))[:, None]
    constant = jnp.full_like(theta, 0.5**0.5)
    columns = [constant, jnp.sin(frequencies * theta), jnp.cos(frequencies * theta)]
    return jnp.concatenate(columns, axis=-1) / jnp.pi**0.5


def _update_atoms(
    parameters: Parameters,
    layer: int,
    batch: AtomBatch,
    atoms: Float[Array, "atoms 64"],
    short: Float[Array, "short 64"],
    long: Float[Array, "long 64"],
    bond_weight: Float[Array, "bonds 64"],
) -> Float[Array, "atoms 64"]:
    """Each atom gathers from its bonds and their other atoms."""
    name = f"atom_conv_layers.{layer}.twoBody_atom"
    bonds = jnp.concatenate([short, long])
    first, second = batch.first, batch.second

    def hidden(layer: str) -> Float[Array, "directed 64"]:
        of_centre, of_bond, of_neighbour = jnp.split(parameters[f"{layer}.weight"].T, 3)
        centre, neighbour = atoms @ of_centre, atoms @ of_neighbour
        bond = bonds @ of_bond + parameters[f"{layer}.bias"]
        forward = centre[first] + neighbour[second] + bond
        backward = centre[second] + neighbour[first] + bond
        return jnp.concatenate([forward, backward])

    messages = two_layers(parameters, name, hidden)
    messages *= jnp.concatenate([bond_weight, bond_weight])
    ends = jnp.concatenate([first, second])
    gathered = jax.ops.segment_sum(messages, ends, len(atoms))
    return atoms + gathered @ parameters[f"atom_conv_layers.{layer}.mlp_out.layers.1.weight"].T


def _update_bonds(
    parameters: Parameters,
    layer: int,
    batch: AtomBatch,
    atoms: Float[Array, "atoms 64"],
    short: Float[Array, "short 64"],
    angles: Float[Array, "angles 64"],
    short_weight: Float[Array, "short 64"],
) -> Float[Array, "short 64"]:
    """Each short bond gathers from the angles at both of its ends."""
    name = f"bond_conv_layers.{layer}.twoBody_bond"

    def hidden(layer: str) -> Float[Array, "angles 64"]:
        weight, bias = parameters[f"{layer}.weight"].T, parameters[f"{layer}.bias"]
        return _of_angles(weight, bias, batch, atoms, short, angles)

    messages = two_layers(parameters, name, hidden)
    both_ways = jnp.concatenate([short_weight, short_weight])
    messages *= both_ways[batch.left] * both_ways[batch.right]
    gathered = jax.ops.segment_sum(messages, batch.left, 2 * len(short), indices_are_sorted=True)
    gathered = gathered[: len(short)] + gathered[len(short) :]
    return short + gathered @ parameters[f"bond_conv_layers.{layer}.mlp_out.layers.1.weight"].T


def _update_angles(
    parameters: Parameters,
    layer: int,
    batch: AtomBatch,
    atoms: Float[Array, "atoms 64"],
    short: Float[Array, "short 64"],
    angles: Float[Array, "angles 64"],
) -> Float[Array, "angles 64"]:
    """Each angle takes from its bonds and its atom."""
    name = f"angle_layers.{layer}.twoBody_bond"

    def centred(part: str) -> Float[Array, "angles 64"]:
        weight, bias = without_mean(parameters, f"{name}.{part}.layers.1")
        return _of_angles(weight, bias, batch, atoms, short, angles)

    return angles + gated_layer(parameters, name, centred("mlp_core"), centred("mlp_gate"))


def _of_angles(
    weight: Float[Array, "256 64"],
    bias: Float[Array, " 64"],
    batch: AtomBatch,
    atoms: Float[Array, "atoms 64"],
    short: Float[Array, "short 64"],
    angles: Float[Array, "angles 64"],
) -> Float[Array, "angles 64"]:
    """A linear layer of [left bond, right bond, angle, atom] of each angle."""
    of_left, of_right, of_angle, of_atom = jnp.split(weight, 4)
    num_short = batch.num_short
    # The atom that a directed bond starts from belongs to the bond.
    start = jnp.concatenate([batch.first[:num_short], batch.second[:num_short]])
    left, right = short @ of_left, short @ of_right
    left = jnp.concatenate([left, left]) + (atoms @ of_atom + bias)[start]
    right = jnp.concatenate([right, right])
    return left[batch.left] + right[batch.right] + angles @ of_angle
