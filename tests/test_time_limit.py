"""time_limit.py: endless work ends, finished work is left alone, and no trace stays behind."""

import signal
import threading

import pytest

from crystal_diffusion_jax.runtime.time_limit import Interrupt, processor_time_limit


def assert_no_trace(handler: object) -> None:
    assert signal.getsignal(signal.SIGPROF) == handler
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_endless_work_is_left_even_where_every_exception_is_caught() -> None:
    before = signal.getsignal(signal.SIGPROF)

    def work_for_ever() -> None:
        while True:
            try:
                pass
            except Exception:
                continue

    with pytest.raises(Interrupt) as caught, processor_time_limit(0.05):
        work_for_ever()
    assert caught.value.reason == "no result after 0.05 s"
    assert_no_trace(before)


def test_work_within_the_limit_and_its_errors_pass() -> None:
    before = signal.getsignal(signal.SIGPROF)
    with processor_time_limit(100.0):
        result = sum(range(10))
    assert result == 45
    assert_no_trace(before)
    with pytest.raises(KeyError, match="x"), processor_time_limit(100.0):
        raise KeyError("x")
    assert_no_trace(before)


def test_a_thread_that_no_signal_reaches_is_refused() -> None:
    refused = []

    def work() -> None:
        try:
            with processor_time_limit(1.0):
                pass
        except ValueError:
            refused.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert refused == [True]
