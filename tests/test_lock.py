"""lock.py: two processes, one folder."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.lock import LOCK, OWNER, exclusive

HOLDER = """
import sys, time
from pathlib import Path
from crystal_diffusion_jax.runtime.lock import exclusive
with exclusive(Path(sys.argv[1]), "--out"):
    print("locked", flush=True)
    time.sleep(600)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that has locked the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def end(process: subprocess.Popen[str], how: signal.Signals) -> None:
    process.send_signal(how)
    process.communicate()


def test_the_second_run_is_refused_with_process_and_host_of_the_first(tmp_path):
    process = hold(tmp_path)
    try:
        who = rf"process {process.pid} on {socket.gethostname()}"
        with (
            pytest.raises(UserError, match=rf"--workdir={tmp_path} is in use by {who}: wait"),
            exclusive(tmp_path, "--workdir"),
        ):
            pass
    finally:
        end(process, signal.SIGKILL)


def test_the_lock_of_a_killed_run_is_taken_over_and_reported(tmp_path):
    process = hold(tmp_path)
    end(process, signal.SIGKILL)
    lines: list[str] = []
    with exclusive(tmp_path, "--out", lines.append):
        assert str(os.getpid()) in (tmp_path / OWNER).read_text()
    assert len(lines) == 1
    assert f"cut short (process {process.pid} on" in lines[0]
    with exclusive(tmp_path, "--out", lines.append):
        pass
    assert len(lines) == 1


def test_an_error_in_the_run_frees_the_folder(tmp_path):
    with pytest.raises(UserError, match="bad"), exclusive(tmp_path, "--out"):
        raise UserError("bad")
    lines: list[str] = []
    with exclusive(tmp_path, "--out", lines.append):
        pass
    assert lines == []


def test_a_damaged_owner_file_does_not_matter(tmp_path):
    (tmp_path / OWNER).write_text("{")
    lines: list[str] = []
    with exclusive(tmp_path, "--out", lines.append):
        pass
    assert "cut short (another process)" in lines[0]


def test_a_folder_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(UserError, match="cannot be locked"), exclusive(tmp_path, "--out"):
        pass
