"""Programs on several devices, which a process has from its start or never."""

import os
import subprocess
import sys
from pathlib import Path

import jax

# XLA's older loop fusion, removed in jax 0.11, makes fewer and larger kernels.
FEWER_KERNELS = ""
if jax.__version_info__ < (0, 11):
    FEWER_KERNELS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def on_devices(count: int, program: str, *arguments: str) -> str:
    """Runs a program in a process with so many devices, which has to succeed; what it prints."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
