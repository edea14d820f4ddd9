"""One run at a time per folder: a lock that ends with its process and names its holder."""

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.runtime.files import read_json

LOCK = ".lock"
OWNER = ".owner.json"
_MAX_OWNER = 10_000  # bytes; a process id and a host name take a hundred


@contextlib.contextmanager
def exclusive(folder: Path, flag: str, log: Callable[[str], None] = print) -> Iterator[None]:
    """Keeps other runs out of an existing folder.

    The operating system releases the lock (flock) when the process ends, however that happens; the
    owner file beside it then shows that the run was killed.

    Args:
      folder: the folder that the run writes to.
      flag: the folder's flag, for the message: "--workdir" or "--out".
      log: takes a line about an earlier run that was killed.

    Raises:
      UserError: another process is at work in the folder.
    """
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise UserError(
            f"{flag}={folder} is in use by {_owner(folder)}: wait for it, stop it, or choose "
            f"another {flag}"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"{flag}={folder} cannot be locked ({error}): choose another {flag}"
        ) from error
    owner = folder / OWNER
    try:
        if owner.exists():
            log(f"the last run in {folder} was cut short ({_owner(folder)}); continuing from there")
        try:
            owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
        except OSError as error:
            raise UserError(f"{flag}={folder} cannot be written ({error.strerror})") from error
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _owner(folder: Path) -> str:
    """Process and host of the last run that locked the folder."""
    try:
        owner = read_json(folder / OWNER, _MAX_OWNER)
        return printable(f"process {owner['pid']} on {owner['host']}", 300)
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
