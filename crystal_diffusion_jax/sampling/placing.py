"""Crystals whose composition the model chooses, and which then start again from a template.

On MP-20 a crystal's composition comes out right more often than its structure: the network has
learnt which elements go together, and little about rare arrangements of many atoms. So the chain
is run for the composition alone, with the property that is asked for, until the training set has a
near template for it: a cell with as many atoms of each element, and these not too far from the ones
that they replace. Where charges are to balance, the composition must be neutral, too: an atom that
could not be balanced in the chain leaves one that is not. The atoms are then placed again, as for a
formula, from that template on. After `MAX_DRAWS` draws a neutral composition is preferred to one
with a template; without one, it is placed again from the crystal that the draw made.
"""

import dataclasses

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.templates import Templates
from crystal_diffusion_jax.request import Request, Trajectory
from crystal_diffusion_jax.sampling.chains import Chains, States
from crystal_diffusion_jax.sampling.given import sorted_cell
from crystal_diffusion_jax.sampling.neutrality import can_be_neutral
from crystal_diffusion_jax.structures.canonical import Cell

MAX_DRAWS = 8
# Mean distance between exchanged elements (`data.templates`) up to which a template is near. Chosen
# on MP-20 (docs/appendix/recipes.md): beyond 2, crystals relax further than those of the chain.
MAX_COST = 1.5
# Streams of a crystal's random numbers: this one, and from the next on one for each draw.
_PLACING = 0


class Placing:
    """Draws compositions, and places their atoms."""

    def __init__(
        self, chains: Chains, request: Request, train: CrystalDataset, balanced: bool
    ) -> None:
        """Sorts the templates.

        Args:
          chains: of the request.
          request: the request, with a start time.
          train: the training crystals, which are the templates.
          balanced: charges are to balance, and can.
        """
        self._chains, self._request, self._balanced = chains, request, balanced
        self._templates = Templates(train)
        self._found: dict[tuple[int, ...], Cell | None] = {}

    def run(self, rows: np.ndarray, size: int, shape: int) -> States:
        """Samples one batch; the arguments are those of `Chains.run`."""
        drawn = self._drawn(rows, size, shape)
        cells = [self._template(states) or _last_cell(states) for states in drawn.trajectories]
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
        """The first draw of each crystal that is as wanted, else the last of the best ones.

        Draws of which one is enough are made together where the batch has room for them.
        """
        found: dict[int, Trajectory] = {}
        calls = made = 0
        missing = list(range(len(rows)))
        while missing and made < MAX_DRAWS:
            together = min(max(shape // len(missing), 1), MAX_DRAWS - made)
            places = np.tile(missing, together)
            draws = made + np.repeat(np.arange(together), len(missing))
            states = self._chains.run(rows[places], size, shape, streams=_PLACING + 1 + draws)
            for place, drawn in zip(places.tolist(), states.trajectories, strict=True):
                best = found.setdefault(place, drawn)
                if not all(self._merits(best)) and self._merits(drawn) >= self._merits(best):
                    found[place] = drawn
            made += together
            calls += states.calls * together
            missing = [place for place in missing if not all(self._merits(found[place]))]
        return States([found[place] for place in range(len(rows))], calls)

    def _merits(self, states: Trajectory) -> tuple[bool, bool]:
        """Whether charges balance, if they are to, and whether there is a near template."""
        balances = not self._balanced or can_be_neutral(states.atomic_numbers[-1])
        return balances, self._template(states) is not None

    def _template(self, states: Trajectory) -> Cell | None:
        """The best template of a crystal's composition, if it is near."""
        numbers = np.sort(states.atomic_numbers[-1])
        key = tuple(numbers.tolist())
        if key not in self._found:
            # The same for all crystals of a composition: how many there are is not known here.
            best = self._templates.find(numbers, 1)
            near = bool(best) and best[0].cost <= MAX_COST
            self._found[key] = sorted_cell(best[0].cell) if near else None
        return self._found[key]


def _last_cell(states: Trajectory) -> Cell:
    return sorted_cell(Cell(states.lattice[-1], states.frac_coords[-1], states.atomic_numbers[-1]))


def _joined(first: Trajectory, second: Trajectory) -> Trajectory:
    return Trajectory(
        *(
            np.concatenate([getattr(first, field.name), getattr(second, field.name)])
            for field in dataclasses.fields(Trajectory)
        )
    )
