"""Command-line programs: flags in, library calls out."""

import importlib
import os

# Silences XLA, which works only before JAX is loaded.
importlib.import_module("crystal_diffusion_jax")

# XLA ends a process whose CPU devices wait for one another for 40 seconds, which can happen while
# it is suspended or other programs keep the cores busy.
_TIMEOUT = "--xla_cpu_collective_call_terminate_timeout_seconds"
if _TIMEOUT not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_TIMEOUT}=86400".strip()
