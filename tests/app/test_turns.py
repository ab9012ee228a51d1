"""Turns are taken in order, one at a time, and can be given up."""

from threading import Event, Thread
from time import sleep

import pytest

from tangovlm.app.turns import Turns


def test_turns_are_taken_in_order_and_one_at_a_time() -> None:
    turns, order, inside, waiting = Turns(), list[int](), list[int](), list[tuple[int, int]]()
    release = Event()

    def user(number: int) -> None:
        with turns.take(lambda ahead: waiting.append((number, ahead))):
            inside.append(number)
            assert len(inside) == 1
            if number == 0:
                release.wait(30)
            order.append(number)
            inside.remove(number)

    threads = [Thread(target=user, args=(number,)) for number in range(4)]
    for number, thread in enumerate(threads):
        thread.start()
        while (inside != [0]) if number == 0 else ((number, number) not in waiting):
            sleep(0.005)
    release.set()
    for thread in threads:
        thread.join(30)
    assert order == [0, 1, 2, 3]


def test_an_exception_while_waiting_gives_the_place_up() -> None:
    turns = Turns()

    def leave(_ahead: int) -> None:
        raise RuntimeError("not wanted")

    with turns.take(lambda _: None), pytest.raises(RuntimeError, match="not wanted"), turns.take(leave):
        pass
    with turns.take(leave):
        pass


def test_an_exception_within_the_turn_ends_it() -> None:
    turns = Turns()
    with pytest.raises(RuntimeError), turns.take(lambda _: None):
        raise RuntimeError
    with turns.take(lambda _: pytest.fail("nobody is before")):
        pass
