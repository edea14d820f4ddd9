"""Crystals whose composition the model chooses, and which then start again from a template.

On MP-20 a crystal's composition comes out right more often than its structure: the network has
learnt which elements go together, and little about rare arrangements of many atoms. So the chain
is run for the composition alone, with the property that is asked for, until the training set has a
cell with as many atoms of each element; then the atoms are placed in it again, as for a formula,
from that template on. A composition without a template after `MAX_DRAWS` draws is placed again
from the crystal that the last of them made.
"""

import dataclasses

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.templates import Templates
from crystal_diffusion_jax.request import Request, Trajectory
from crystal_diffusion_jax.sampling.chains import Chains, States
from crystal_diffusion_jax.sampling.given import template_cells
from crystal_diffusion_jax.structures.canonical import Cell

MAX_DRAWS = 8
# Streams of a crystal's random numbers: this one, and from the next on one for each draw.
_PLACING = 0


class Placing:
    """Draws compositions, and places their atoms."""

    def __init__(self, chains: Chains, request: Request, train: CrystalDataset) -> None:
        """Sorts the templates.

        Args:
          chains: of the request.
          request: the request, with a start time.
          train: the training crystals, which are the templates.
        """
        self._chains, self._request = chains, request
        self._templates = Templates(train)

    def run(self, rows: np.ndarray, size: int, shape: int) -> States:
        """Samples one batch; the arguments are those of `Chains.run`."""
        drawn = self._drawn(rows, size, shape)
        cells = [_last_cell(each) for each in drawn.trajectories]
        known = [i for i, cell in enumerate(cells) if cell.atomic_numbers in self._templates]
        # The best template of each: other crystals of the same composition are not known here.
        found = template_cells(
            [cells[i].atomic_numbers for i in known], [0] * len(known), self._templates
        )
        for i, cell in zip(known, found, strict=True):
            cells[i] = cell
        placed = self._chains.run(
            rows,
            size,
            shape,
            streams=np.full(len(rows), _PLACING),
            given=[cell.atomic_numbers for cell in cells],
            cells=cells,
            start=self._request.start_time,
            averaging_rounds=self._request.averaging_rounds,
        )
        trajectories = placed.trajectories
        if self._chains.records:
            trajectories = list(map(_joined, drawn.trajectories, trajectories))
        return States(trajectories, drawn.calls + placed.calls)

    def _drawn(self, rows: np.ndarray, size: int, shape: int) -> States:
        """The first draw of each crystal whose composition has a template, else the last one.

        Draws of which one is enough are made together where the batch has room for them.
        """
        found: dict[int, Trajectory] = {}
        calls = made = 0
        missing = np.arange(len(rows))
        while len(missing) and made < MAX_DRAWS:
            together = min(max(shape // len(missing), 1), MAX_DRAWS - made)
            places = np.tile(missing, together)
            draws = made + np.repeat(np.arange(together), len(missing))
            states = self._chains.run(rows[places], size, shape, streams=_PLACING + 1 + draws)
            for place, trajectory in zip(places.tolist(), states.trajectories, strict=True):
                if place not in found or not self._has_template(found[place]):
                    found[place] = trajectory
            made += together
            calls += states.calls
            missing = np.array(
                [place for place, states in found.items() if not self._has_template(states)],
                np.int64,
            )
        return States([found[place] for place in range(len(rows))], calls)

    def _has_template(self, states: Trajectory) -> bool:
        return states.atomic_numbers[-1] in self._templates


def _last_cell(states: Trajectory) -> Cell:
    """The crystal at the end, its atoms sorted by atomic number."""
    numbers = states.atomic_numbers[-1]
    order = np.argsort(numbers, kind="stable")
    return Cell(states.lattice[-1], states.frac_coords[-1][order], numbers[order])


def _joined(first: Trajectory, second: Trajectory) -> Trajectory:
    return Trajectory(
        *(
            np.concatenate([getattr(first, field.name), getattr(second, field.name)])
            for field in dataclasses.fields(Trajectory)
        )
    )
