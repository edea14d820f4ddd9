"""Work on many crystals in processes of its own, where no crystal can end the program."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import joblib
from tqdm import tqdm

Result = TypeVar("Result")


def in_processes(
    function: Callable[..., Result],
    tasks: Sequence[tuple[Any, ...]],
    title: str,
    batch_size: int = 1,
    progress: bool = True,
) -> Iterator[Result | str]:
    """`function(*task)` of each task, in order, on all cores and never in this process.

    Args:
      function: what to do; an exception of it ends the program.
      tasks: its arguments.
      title: what is done, in a few words.
      batch_size: tasks handed to a process at a time; what they share is sent once.
      progress: show a progress bar on stderr.

    Yields:
      The results; in the place of one whose task ended its process a text that says so.
    """
    outcomes = _outcomes(function, tasks, f"{title} ended its process", batch_size)
    return iter(tqdm(outcomes, desc=title, total=len(tasks), disable=not (progress and tasks)))


def _outcomes(
    function: Callable[..., Result], tasks: Sequence[tuple[Any, ...]], died: str, batch_size: int
) -> Iterator[Result | str]:
    num_done = 0
    try:
        for result in _parallel(function, tasks, batch_size):
            num_done += 1
            yield result
    except BrokenProcessPool:
        # Out of memory, or a fault in compiled code: the rest one by one, to find out whose.
        for task in tasks[num_done:]:
            try:
                (result,) = _parallel(function, [task], 1)
            except BrokenProcessPool:
                yield died
            else:
                yield result


def _parallel(
    function: Callable[..., Result], tasks: Sequence[tuple[Any, ...]], batch_size: int
) -> Iterator[Result]:
    # With one job joblib would work in this process.
    parallel = joblib.Parallel(
        n_jobs=max(2, joblib.cpu_count()), batch_size=batch_size, return_as="generator"
    )
    results: Iterator[Result] = parallel(joblib.delayed(function)(*task) for task in tasks)
    return results
