"""runtime/workers.py: order, time limits and dying processes."""

import functools
import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from crystal_diffusion_jax.runtime import workers
from crystal_diffusion_jax.runtime.workers import TaskFailure, Workers, map_in_processes

ENVIRONMENT = dict(os.environ)
# Seconds; the items that end do so at once, also on a busy machine.
LIMIT = 5.0
TOO_LONG = TaskFailure("no result after 5 s")


def square(number: int) -> int:
    return number * number


def misbehave(deadly: int, endless: int, number: int) -> int:
    """Ends its process, never ends, or returns the number."""
    if number == deadly:
        os._exit(1)
    while number == endless:
        time.sleep(1)
    return number


def modules(_: int) -> list[str]:
    return [name for name in ("jax", "tests.conftest") if name in sys.modules]


@pytest.mark.parametrize("chunksize", [1, 7])
def test_results_come_in_order(chunksize: int) -> None:
    found = map_in_processes(square, range(50), "squares", chunksize=chunksize, progress=False)
    assert list(found) == [number**2 for number in range(50)]


def test_nothing_gives_nothing() -> None:
    assert list(map_in_processes(square, [], "squares")) == []


@pytest.mark.parametrize("chunksize", [1, 3])
def test_only_the_item_that_hangs_or_dies_has_no_result(chunksize: int) -> None:
    function = functools.partial(misbehave, 3, 5)
    found = list(map_in_processes(function, range(10), "", LIMIT, chunksize, progress=False))
    assert found[3] == TaskFailure("ended its process")
    assert found[5] == TOO_LONG
    assert [found[i] for i in range(10) if i not in (3, 5)] == [0, 1, 2, 4, 6, 7, 8, 9]


def test_results_can_be_had_as_they_finish(tmp_path: Path) -> None:
    found = []
    with Workers(functools.partial(wait_for, tmp_path / "file"), 60.0, num_workers=2) as workers:
        for index, result in workers.map_as_finished(iter([0, 1, 2, 3])):
            if index == 3:  # in order, item 0 would wait for ever
                (tmp_path / "file").touch()
            found.append((index, result))
    assert found.pop() == (0, 0)
    assert sorted(found) == [(1, 1), (2, 2), (3, 3)]


def test_items_that_hang_or_die_fail_alone_also_as_they_finish() -> None:
    with Workers(functools.partial(misbehave, 3, 5), timeout=LIMIT) as workers:
        found = dict(workers.map_as_finished(range(10)))
    failures = {3: TaskFailure("ended its process"), 5: TOO_LONG}
    assert found == {i: i for i in range(10)} | failures


def wait_for(file: Path, number: int) -> int:
    """Returns the number, 0 only once there is such a file."""
    while number == 0 and not file.exists():
        time.sleep(0.01)
    return number


def test_the_threads_of_linear_algebra_do_not_compete_with_the_processes() -> None:
    assert list(map_in_processes(os.getenv, ["OMP_NUM_THREADS"], "", progress=False)) == [
        os.environ.get("OMP_NUM_THREADS", "1")
    ]
    assert "OMP_NUM_THREADS" not in {*os.environ} - {*ENVIRONMENT}


def test_pools_that_start_at_the_same_time_leave_the_program_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    second_came, first_is_done = threading.Event(), threading.Event()
    second = threading.Thread(target=lambda: workers._Process().start())

    def start(process: multiprocessing.Process) -> None:
        if threading.current_thread() is second:
            second_came.set()
            first_is_done.wait(10)
        else:
            second.start()
            second_came.wait(0.5)  # if it does not wait for the first

    monkeypatch.setattr(multiprocessing.context.ForkServerProcess, "start", start)
    main = sys.modules["__main__"]
    workers._Process().start()
    first_is_done.set()
    second.join()
    found = sys.modules["__main__"]
    sys.modules["__main__"] = main
    assert found is main
    assert "OMP_NUM_THREADS" not in os.environ


def test_an_exception_is_raised_here() -> None:
    with pytest.raises(TypeError):
        list(map_in_processes(square, ["text"], "", progress=False))  # type: ignore[arg-type]


def test_workers_are_used_again() -> None:
    with Workers(square) as workers:
        assert list(workers.map([2])) == [4]
        assert list(workers.map(iter([3, 4]))) == [9, 16]


def test_workers_inherit_nothing_of_the_program() -> None:
    assert list(map_in_processes(modules, [0], "", progress=False)) == [[]]


def test_a_server_that_is_started_early_starts_the_workers() -> None:
    server: Any = multiprocessing.forkserver._forkserver
    server._stop()  # that of other tests
    workers.start_server()
    started = server._forkserver_pid
    assert started is not None
    assert list(map_in_processes(parent, [0], "", progress=False)) == [started]
    found = map_in_processes(os.getenv, ["OMP_NUM_THREADS"], "", progress=False)
    assert list(found) == [os.environ.get("OMP_NUM_THREADS", "1")]
    assert list(map_in_processes(modules, [0], "", progress=False)) == [[]]


def parent(_: int) -> int:
    return os.getppid()


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\n"
        "from crystal_diffusion_jax.runtime.workers import map_in_processes\n"
        "print(list(map_in_processes(abs, [-1, -2], '', progress=False)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "once\n[1, 2]\n"


def test_workers_that_are_stopped_as_they_start_print_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from crystal_diffusion_jax.runtime.workers import Workers\n"
        "for _ in range(4):\n"
        "    with Workers(abs, num_workers=12) as workers:\n"
        "        print(list(workers.map([-1])))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "[1]\n" * 4
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_hanging_worker_does_not_outlive_a_killed_program(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    program = textwrap.dedent(f"""
        from crystal_diffusion_jax.runtime.workers import map_in_processes
        from tests.test_workers import hang
        list(map_in_processes(hang, [{str(file)!r}], "", progress=False))
    """)
    with subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parent.parent) as one:
        while not (file.exists() and file.read_text()):
            time.sleep(0.05)
        one.kill()
    worker = Path("/proc") / file.read_text()
    deadline = time.monotonic() + 20
    while worker.exists() and "(zombie)" not in (worker / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def hang(file: str) -> None:
    Path(file).write_text(str(os.getpid()))
    while True:
        pass
