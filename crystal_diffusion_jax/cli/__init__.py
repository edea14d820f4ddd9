"""Command-line programs: flags in, library calls out."""

import importlib
import os

# Silences XLA, which works only before JAX is loaded.
importlib.import_module("crystal_diffusion_jax")

# Devices of a CPU that wait for one another are patient: XLA ends a process after 40 seconds, which
# pass while it is suspended, or while others keep the cores busy.
_PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds"
if _PATIENCE not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_PATIENCE}=86400".strip()
