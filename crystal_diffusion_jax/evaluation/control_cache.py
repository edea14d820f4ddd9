"""Relaxed controls, kept in the user's cache: they are the same for every set of crystals."""

import hashlib

import filelock

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials.relax_folder import relax_into
from crystal_diffusion_jax.potentials.relaxation import RelaxedCrystal, RelaxSettings
from crystal_diffusion_jax.potentials.relaxed_database import digest
from crystal_diffusion_jax.runtime.user_cache import cache_folder
from crystal_diffusion_jax.structures.reading import Inputs


def relax_in_cache(inputs: Inputs, settings: RelaxSettings) -> list[RelaxedCrystal]:
    """The relaxed crystals of all controls of a data set.

    They are found again by the crystals, the settings and our version. If another command is at
    work on the same ones, this waits for it.

    Args:
      inputs: the crystals.
      settings: how they are relaxed.

    Raises:
      UserError: they cannot be relaxed or kept.
    """
    parts = [digest(structure) for structure in inputs.structures if structure is not None]
    key = hashlib.sha256(repr((parts, settings, __version__)).encode()).hexdigest()
    folder = cache_folder() / "controls" / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_suffix(".lock")):
            return relax_into(folder, inputs, settings)
    except (OSError, UserError) as error:
        raise UserError(
            f"the controls cannot be relaxed in {folder} ({error}): leave them out "
            "(--controls=0), or set CRYSTAL_DIFFUSION_CACHE to another folder"
        ) from error
