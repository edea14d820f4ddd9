"""Several processes that train one model.

All processes run the same program, each on the devices of its host; the first one also writes the
files and prints. A collective operation waits for every process, so a process that stops alone
would leave the others waiting: what can fail runs under `everywhere`.
"""

import hashlib
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import devices

_T = TypeVar("_T")

# Bytes of an error message that reach the other processes.
_MAX_MESSAGE = 4000


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes; call it before any device is used.

    Args:
      coordinator: HOST:PORT of the first process, with a port that is free there. If None, all
        three are taken from the TPU pod, Slurm or Open MPI that started the processes.
      num_processes: number of processes.
      process_id: number of this process, from 0.

    Raises:
      UserError: not all three are given and nothing is detected, a number is out of range, or the
        hosts differ in their number of devices.
    """
    given = (coordinator, num_processes, process_id)
    if any(value is not None for value in given):
        if coordinator is None or num_processes is None or process_id is None:
            raise UserError(
                "--coordinator, --num_processes and --process_id must be given together"
            )
        if not 0 <= process_id < num_processes:
            raise UserError(
                f"--process_id={process_id} is not one of 0 .. {num_processes - 1}, those of "
                f"--num_processes={num_processes}"
            )
        if not coordinator.rpartition(":")[2].isdecimal():
            raise UserError(
                f"--coordinator={coordinator} is not HOST:PORT, an address of the first process"
            )
    # The service would take over SIGTERM, which could then no longer end a process.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            *given, cluster_detection_method=None if coordinator is None else "deactivate"
        )
    except ValueError as error:
        raise UserError(
            "--distributed finds no TPU pod, Slurm or Open MPI around this process; start each "
            "process with --coordinator=HOST:PORT --num_processes=N --process_id=I instead"
        ) from error
    except RuntimeError as error:
        where = coordinator or "the coordinator"
        raise UserError(
            f"the processes could not connect to {where} ({error}); check that all were started, "
            "and that the first one's port is free and reachable from every host"
        ) from error
    if jax.device_count() != jax.process_count() * jax.local_device_count():
        raise UserError(
            f"process {jax.process_index()} has {jax.local_device_count()} of "
            f"{jax.device_count()} devices: all {jax.process_count()} processes need the same"
        )
    _connect()


def _connect() -> None:
    """Opens the connections of all collectives while the processes are in step.

    Connections between CPUs time out if a process is half a minute late for its first collective
    operation, for example because it compiles what the others have cached; after that they wait
    forever.
    """
    mesh = devices.data_mesh()
    ones = devices.from_local_rows(np.ones(len(devices.local_part(mesh))), mesh)
    jax.block_until_ready(ones.sum())
    multihost_utils.sync_global_devices("connected")


def is_first() -> bool:
    """Whether this process writes the files and prints."""
    first: bool = jax.process_index() == 0
    return first


def everywhere(action: Callable[[], _T]) -> _T:
    """Runs an action in every process and returns its result; an error in one stops them all.

    Raises:
      UserError: the first one raised by any process, the same in every process.
    """
    if jax.process_count() == 1:
        return action()
    results, own_error = [], None
    try:
        results.append(action())
    except UserError as error:
        own_error = error
    messages = _from_all(str(own_error or ""))
    for process, message in enumerate(messages):
        if message:
            raise UserError(f"{message} (process {process} of {len(messages)})") from own_error
    return results[0]


def same_everywhere(text: str) -> bool:
    """Whether all processes hold the same text."""
    if jax.process_count() == 1:
        return True
    return len(set(_from_all(hashlib.sha256(text.encode()).hexdigest()))) == 1


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process; all must ask, and wait for one another."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def _from_all(text: str) -> list[str]:
    """The texts of all processes, in order."""
    encoded = text.encode()[:_MAX_MESSAGE].ljust(_MAX_MESSAGE, b"\0")
    rows = multihost_utils.process_allgather(np.frombuffer(encoded, np.uint8))
    return [
        row.tobytes().rstrip(b"\0").decode(errors="ignore")
        for row in rows.reshape(-1, _MAX_MESSAGE)
    ]
