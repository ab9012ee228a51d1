"""Work in a thread: its results, its exceptions, and its end when nobody wants them."""

from threading import Event

import pytest

from tangovlm.app.background import CancelledWork, Emitter, iterate


def test_all_results_without_a_pause() -> None:
    ready = Event()

    def work(emit: Emitter[int]) -> None:
        for number in range(3):
            emit(number)
            ready.wait(10)
            ready.clear()

    found = []
    for number in iterate(work, pause_s=0.0):
        found.append(number)
        ready.set()
    assert found == [0, 1, 2]


def test_the_last_result_is_never_lost() -> None:
    def work(emit: Emitter[int]) -> None:
        for number in range(1000):
            emit(number)

    found = list(iterate(work, pause_s=0.05))
    assert found[-1] == 999
    assert found == sorted(found)
    assert len(found) < 100


def test_an_exception_comes_after_the_results() -> None:
    def work(emit: Emitter[int]) -> None:
        emit(1)
        raise KeyError("broken")

    results = iterate(work)
    assert next(results) == 1
    with pytest.raises(KeyError, match="broken"):
        next(results)


def test_work_whose_iterator_is_closed_ends() -> None:
    ended = Event()

    def work(emit: Emitter[int]) -> None:
        try:
            while True:
                emit(0)
        except CancelledWork:
            ended.set()
            raise

    results = iterate(work)
    next(results)
    results.close()  # type: ignore[attr-defined] # a generator
    assert ended.wait(10)
