"""Persistent compilation cache in the user's cache folder, which makes the second start fast."""

import hashlib
import logging
import os
import platform
import tempfile
from pathlib import Path

import jax

from crystal_diffusion_jax.runtime.user_cache import cache_folder

_LOGGER = logging.getLogger("crystal_diffusion_jax")

# The least recently used programs are evicted first; one of ours takes about 1 MB.
MAX_BYTES = 2**30
# Compiling less than this takes about as long as reading a program back.
MIN_SECONDS = 0.05
# Linux lists the instruction sets here; elsewhere there is no such file.
_CPUINFO = Path("/proc/cpuinfo")


def keep_compiled_programs() -> None:
    """Turns JAX's persistent compilation cache on, unless the user has set one up.

    Without a writable folder it warns and leaves the cache off.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    # XLA compiles for the processor it runs on, and machines may share a home folder.
    folder = cache_folder() / "compiled" / processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        _LOGGER.warning(
            "compiled programs are not kept: %s cannot be written (%s)", folder, error.strerror
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)


def processor() -> str:
    """Sixteen hexadecimal digits that differ between instruction sets."""
    description = f"{platform.machine()} {platform.processor()}"
    if os.access(_CPUINFO, os.R_OK):
        lines = _CPUINFO.read_text().splitlines()
        description += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(description.encode()).hexdigest()[:16]
