"""Command-line programs: flags in, library calls out."""

import os

# Before JAX is loaded. At every program read from the compilation cache XLA would print a page on
# tuning preferences that it mistakes for missing instructions (jax-ml/jax#38445).
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Devices of a CPU that wait for one another are patient: XLA ends a process after 40 seconds, which
# pass while it is suspended, or while others keep the cores busy.
_PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds"
if _PATIENCE not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_PATIENCE}=86400".strip()
