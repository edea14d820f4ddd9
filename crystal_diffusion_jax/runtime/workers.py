"""Worker processes, by pebble: one item that hangs or kills its process never stops the others.

Workers are forked from a server process that has pymatgen imported and neither JAX nor the
program's main module: they start in milliseconds, inherit no state of the devices, and scripts
need no `if __name__ == "__main__"`.
"""

import collections
import contextlib
import dataclasses
import itertools
import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import os
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any, Generic, TypeVar

import pebble
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items that are given to the workers ahead of the first unfinished one.
_AHEAD = 4096


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class TaskFailure:
    """In place of a result; the reason is "no result after 60 s" or "ended its process"."""

    reason: str


def start_server() -> None:
    """Starts the server, which imports pymatgen while this process does something else."""
    with _server_settings():
        multiprocessing.forkserver.ensure_running()


class Workers(Generic[Item, Result]):
    """Worker processes that apply one function; a context manager."""

    def __init__(
        self,
        function: Callable[[Item], Result],
        timeout: float | None = None,
        chunksize: int = 1,
        num_workers: int | None = None,
    ) -> None:
        """Prepares the processes; they start with the first items.

        Args:
          function: importable by name, or a `functools.partial` of such a function, whose arguments
            are sent to each worker once.
          timeout: seconds for one item.
          chunksize: items that a worker takes at a time.
          num_workers: default one per core.
        """
        self.function = function
        self._timeout = timeout
        self._chunksize = chunksize
        self._pool = pebble.ProcessPool(
            num_workers or num_cores(),
            initializer=_start,
            initargs=(function,),
            context=_CONTEXT,
        )

    def __enter__(self) -> "Workers[Item, Result]":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.stop()
        self._pool.join()

    def map(self, items: Iterable[Item]) -> Iterator[Result | TaskFailure]:
        """`function` of each item, in order.

        An item that takes too long or ends its process has a `TaskFailure`; an exception of the
        function is raised here.
        """
        remaining = iter(items)
        chunks = iter(lambda: list(itertools.islice(remaining, self._chunksize)), [])
        pending: collections.deque[tuple[list[Item], Any]] = collections.deque()
        max_pending = max(_AHEAD // self._chunksize, 2 * num_cores())
        while True:
            for chunk in itertools.islice(chunks, max_pending - len(pending)):
                pending.append((chunk, self._schedule(chunk)))
            if not pending:
                return
            yield from self._outcomes(*pending.popleft())

    def map_as_finished(self, items: Iterable[Item]) -> Iterator[tuple[int, Result | TaskFailure]]:
        """As `map`, with the index of each item, in the order in which they finish.

        For items of seconds or more: only a few are taken ahead, and each alone.
        """
        remaining = enumerate(items)
        running: dict[Any, tuple[int, Item]] = {}
        while True:
            for index, item in itertools.islice(remaining, 2 * num_cores() - len(running)):
                running[self._schedule([item])] = index, item
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                index, item = running.pop(future)
                (outcome,) = self._outcomes([item], future)
                yield index, outcome

    def _schedule(self, chunk: list[Item]) -> Any:
        timeout = None if self._timeout is None else self._timeout * len(chunk)
        return self._pool.schedule(_apply, args=(chunk,), timeout=timeout)

    def _outcomes(self, chunk: list[Item], future: Any) -> list[Result | TaskFailure]:
        try:
            return list(future.result())
        except TimeoutError:
            failure = TaskFailure(f"no result after {self._timeout:g} s")
        except pebble.ProcessExpired:
            failure = TaskFailure("ended its process")
        if len(chunk) == 1:
            return [failure]
        # One by one, to find out which item it was.
        return [
            outcome for item in chunk for outcome in self._outcomes([item], self._schedule([item]))
        ]


def map_in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    title: str,
    timeout: float | None = None,
    chunksize: int = 1,
    progress: bool = True,
) -> Iterator[Result | TaskFailure]:
    """`function` of each item, in order, on all cores and never in this process.

    Args:
      function: see `Workers`; an exception of it is raised here.
      items: its arguments.
      title: of the progress bar.
      timeout: seconds for one item.
      chunksize: items that a worker takes at a time; more than 1 pays off below about 0.2 ms an
        item.
      progress: show a progress bar on stderr.

    Yields:
      The results; a `TaskFailure` for an item that takes too long or ends its process.
    """
    if not items:
        return
    num_workers = min(num_cores(), -(-len(items) // chunksize))
    with Workers(function, timeout, chunksize, num_workers) as workers:
        yield from tqdm(workers.map(items), desc=title, total=len(items), disable=not progress)


# Pools start their processes in threads of their own.
_STARTING = threading.Lock()
# With a process on each core, the threads of linear algebra or torch in each would wait for one
# another: solving 9 equations takes 30 ms instead of 30 us on busy cores.
_THREADS = "OMP_NUM_THREADS"


@contextlib.contextmanager
def _server_settings() -> Iterator[None]:
    """What the server and its processes shall see of this program."""
    with _STARTING:
        main, threads = sys.modules["__main__"], os.environ.get(_THREADS)
        sys.modules["__main__"] = types.ModuleType("__main__")
        os.environ.setdefault(_THREADS, "1")  # read by the server when it starts
        try:
            yield
        finally:
            sys.modules["__main__"] = main
            if threads is None:
                os.environ.pop(_THREADS, None)


class _Process(multiprocessing.context.ForkServerProcess):
    """A process that does not import the program's main module, as multiprocessing's own do."""

    def start(self) -> None:
        with _server_settings():
            super().start()


class _Context(multiprocessing.context.ForkServerContext):
    Process = _Process


_CONTEXT = _Context()
_CONTEXT.set_forkserver_preload(
    [
        "pymatgen.core.local_env",
        "pymatgen.analysis.structure_matcher",
        "crystal_diffusion_jax.runtime.worker_server",
    ]
)
_function: Callable[[Any], Any]  # of this worker


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Ends this worker when the program is killed, even in the middle of an item that hangs."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _apply(chunk: list[Any]) -> list[Any]:
    return [_function(item) for item in chunk]
