"""The reverse processes of one request: some of its crystals at a time through the sampler."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from crystal_diffusion_jax.diffusion.schedules import sampling_times
from crystal_diffusion_jax.request import Request, Trajectory
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.sampling import averaging
from crystal_diffusion_jax.sampling.chain import last_state
from crystal_diffusion_jax.sampling.conditions import allowed_species, condition_arrays
from crystal_diffusion_jax.sampling.given import given_crystals
from crystal_diffusion_jax.sampling.renoising import num_renoised
from crystal_diffusion_jax.sampling.sampler import Sampler, make_sampler
from crystal_diffusion_jax.sampling.trajectory import recording, saved_steps
from crystal_diffusion_jax.structures.canonical import Cell
from crystal_diffusion_jax.structures.compositions import common_oxidation_states
from crystal_diffusion_jax.trained_model import TrainedModel


@dataclasses.dataclass(frozen=True)
class States:
    """States of n crystals in the reverse process; the last ones are the crystals.

    Attributes:
      trajectories: [n] states of each crystal.
      calls: evaluations of the network for a crystal, at most; guidance takes two at a time.
    """

    trajectories: list[Trajectory]
    calls: int


class Chains:
    """Runs the reverse process for crystals of one request."""

    def __init__(
        self,
        model: TrainedModel,
        request: Request,
        num_atoms: np.ndarray,
        trajectory: int | None = None,
    ) -> None:
        """Prepares what all batches share.

        Args:
          model: the trained model.
          request: the request.
          num_atoms: [num] of all its crystals.
          trajectory: keep the states after every so many steps; None for the last ones alone.
        """
        self._model, self._request, self._trajectory = model, request, trajectory
        self._num_atoms, self._values = num_atoms, request.values()
        self._allowed = allowed_species(request.allowed_elements, model.statistics.vocabulary)
        self._mesh = devices.data_mesh()

    @property
    def records(self) -> bool:
        """Whether states besides the last ones are kept."""
        return self._trajectory is not None

    def run(
        self,
        rows: np.ndarray,
        size: int,
        shape: int,
        *,
        streams: np.ndarray | None = None,
        given: Sequence[np.ndarray] | None = None,
        cells: Sequence[Cell | None] = (),
        start: int = 0,
        averaging_rounds: int = 0,
    ) -> States:
        """Samples one batch.

        Args:
          rows: [n] indices of the crystals in the request.
          size: number of atoms that the batch is padded to.
          shape: number of crystals that it is filled up to, at least n.
          streams: [n] which of its streams of random numbers each crystal takes; None for that of
            crystals which are sampled once.
          given: [n] ascending atomic numbers of each crystal; None to leave them to the model.
          cells: [n] crystals to start from if `start` is not 0, their atoms in that order, else
            None; read if compositions are given.
          start: diffusion time at which crystals start from `cells`; 0 to start from noise.
          averaging_rounds: as in the request.
        """
        model, request, statistics = self._model, self._request, self._model.statistics
        sample, times, calls = self._sampler(given is not None, start, averaging_rounds)
        # A partial batch is filled up, so that it needs no new program and divides among devices.
        shared = -(-shape // self._mesh.size) * self._mesh.size
        filling = np.concatenate([np.arange(len(rows)), np.zeros(shared - len(rows), np.int64)])
        filled = rows[filling]
        keys = crystal_keys(np.uint32(request.seed), filled.astype(np.uint32))
        if streams is not None:
            keys = crystal_streams(keys, streams[filling].astype(np.uint32))
        known = None
        if given is not None:
            known = given_crystals(
                [given[place] for place in filling],
                [cells[place] for place in filling],
                size,
                statistics,
            )
        states = sample(
            model.params,
            keys,
            np.arange(size) < self._num_atoms[filled][:, None],
            condition_arrays(
                {name: asked[filled] for name, asked in self._values.items()},
                statistics,
                len(filled),
                species_given=given is not None,
            ),
            request.guidance,
            request.corrector_step_size,
            self._allowed,
            known,
        )
        lattice, frac_coords, species = (
            np.asarray(array)[: len(rows)]
            for array in (states.lattice, states.frac_coords, states.species)
        )
        if self._trajectory is None:  # one state per crystal
            lattice, frac_coords, species = lattice[:, None], frac_coords[:, None], species[:, None]
        num_atoms = self._num_atoms[rows]
        lattice = lattice * statistics.lattice_unit(num_atoms)[:, None, None, None]
        atomic_numbers = np.array(statistics.vocabulary)[species]
        trajectories = [
            Trajectory(times, lattice[i], frac_coords[i, :, :n], atomic_numbers[i, :, :n])
            for i, n in enumerate(num_atoms)
        ]
        return States(trajectories, calls)

    def _sampler(
        self, given: bool, start: int, averaging_rounds: int
    ) -> tuple[Sampler, np.ndarray, int]:
        """The sampler from a time on, 0 for all times, those it returns, and calls per crystal."""
        model, request, trajectory = self._model, self._request, self._trajectory
        use_corrector = request.corrector_step_size != 0
        sample = make_sampler(
            model.denoiser,
            model.config.noise,
            request.num_steps,
            request.guidance != 0,
            self._mesh,
            request.solver,
            use_corrector,
            request.renoising_steps,
            averaging_rounds,
            # Given species are not drawn.
            common_oxidation_states(model.statistics.vocabulary)
            if request.charge_balance and not given
            else None,
            start,
            last_state if trajectory is None else recording(trajectory),
        )
        times = sampling_times(model.config.noise.num_steps, request.num_steps, start)
        calls = (len(times) - 1) * (2 if use_corrector else 1)
        calls += num_renoised(times[:-1], model.config.noise) * request.renoising_steps
        calls += averaging.CALLS * averaging_rounds
        kept = [-1] if trajectory is None else saved_steps(len(times) - 1, trajectory)
        return sample, times[kept], calls * (2 if request.guidance else 1)


def steps_of(request: Request, model: TrainedModel) -> list[int]:
    """Steps of the chains that a crystal goes through, at most: from noise, and from a template."""
    starts = [0, request.start_time] if request.start_time else [0]
    trained_steps = model.config.noise.num_steps
    return [len(sampling_times(trained_steps, request.num_steps, start)) - 1 for start in starts]


@jax.jit
def crystal_keys(seed: ArrayLike, indices: ArrayLike) -> Array:
    """[B] PRNG keys of the crystals with these indices in a request."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), indices)


@jax.jit
def crystal_streams(keys: Array, streams: ArrayLike) -> Array:
    """[B] other PRNG keys of the same crystals; the chain itself folds in times, from 0 on."""
    return jax.vmap(jax.random.fold_in)(keys, _FIRST_STREAM + streams)


_FIRST_STREAM = np.uint32(2**31)
