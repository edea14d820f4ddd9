"""What figures are measured with: the processor, its caches, versions, the commit."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from crystal_diffusion_jax.runtime.workers import num_cores

_ROOT = Path(__file__).parent.parent
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pymatgen-core")
# Linux has them here; elsewhere there is no such folder.
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_CPUINFO = Path("/proc/cpuinfo")
# Instruction sets that matter to matrix products, as /proc/cpuinfo spells them.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve", "bf16")


def describe() -> dict[str, Any]:
    """Name, caches and cores of the processor, memory, versions, date and commit."""
    info = _cpuinfo()
    flags = info.get("flags", info.get("Features", "")).split()
    return {
        "processor": info.get("model name") or platform.processor() or platform.machine(),
        "family": " ".join(info.get(key, "") for key in ("cpu family", "model", "stepping")),
        "instructions": [name for name in _INSTRUCTIONS if name in flags],
        "caches": caches(),
        "cores": num_cores(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def caches(folder: Path = _CACHES) -> list[str]:
    """For example "L2 1024K"; data caches of one core and what it shares; [] where unknown."""
    found = []
    for index in sorted(folder.glob("index*")):
        level, kind, size = (
            (index / name).read_text().strip() for name in ("level", "type", "size")
        )
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return found


def commit() -> str:
    """The commit of the source, with a "+" if files have changed since; "" without git."""
    try:
        found = [
            subprocess.run(
                ["git", "-C", _ROOT, *arguments], capture_output=True, text=True, check=True
            ).stdout.strip()
            for arguments in (
                ["rev-parse", "--short=10", "HEAD"],
                ["status", "--porcelain", "-uno"],
            )
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found[0] + ("+" if found[1] else "")


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines."""
    if not os.access(_CPUINFO, os.R_OK):
        return {}
    lines = _CPUINFO.read_text().split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _memory_gb() -> int | None:
    if sys.platform not in ("linux", "darwin"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
