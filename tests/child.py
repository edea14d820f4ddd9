"""Programs on several devices, which a process has from its start or never."""

import os
import subprocess
import sys
from pathlib import Path


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
