"""Which program relaxes crystals with which potential."""

import math
from collections.abc import Iterable, Iterator
from typing import Protocol

from pymatgen.core import Structure

from crystal_diffusion_jax.errors import UserError, did_you_mean, require_between
from crystal_diffusion_jax.potentials import relax, with_ase
from crystal_diffusion_jax.potentials.relaxation import CHGNET, Relaxation, RelaxSettings


class Driver(Protocol):
    """Relaxes crystals and yields each with its index, as they finish."""

    def __call__(
        self,
        structures: Iterable[Structure],
        settings: RelaxSettings,
        progress: bool = True,
        total: int | None = None,
    ) -> Iterator[tuple[int, Relaxation]]:
        """Relaxes; a crystal that cannot be is a `Relaxation` with a failure."""


def driver(settings: RelaxSettings) -> Driver:
    """The program for `settings.potential`, with all that can be checked beforehand checked.

    Raises:
      UserError: no such potential or a setting out of range.
    """
    require_between("fmax", settings.fmax, 1e-6, math.inf)
    require_between("max_steps", settings.max_steps, 0, 100_000)
    if settings.potential == CHGNET:
        return relax.relax
    if settings.potential.startswith(with_ase.PREFIX):
        with_ase.check(settings)
        return with_ase.relax
    raise UserError(
        f"--potential={settings.potential} is neither {CHGNET} nor {with_ase.PREFIX}module.Class, "
        f"an ASE calculator{did_you_mean(settings.potential, [CHGNET])}"
    )
