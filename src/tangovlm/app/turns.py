"""One user of the model after the other, in the order in which they came."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition

_SECONDS = 0.25
"""Between two calls while a turn is waited for."""


class Turns:
    """A lock that is given to its waiting users in their order."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._queue: deque[object] = deque()

    @contextmanager
    def take(self, on_wait: Callable[[int], None]) -> Iterator[None]:
        """Wait for the turn, which ends with the context.

        Parameters
        ----------
        on_wait: called again and again while others are before this one, with their number. An exception that it raises
            gives the place up.
        """
        ticket = object()
        with self._condition:
            self._queue.append(ticket)
        try:
            while ahead := self._ahead(ticket):
                on_wait(ahead)
                with self._condition:
                    self._condition.wait_for(lambda: self._queue[0] is ticket, _SECONDS)
            yield
        finally:
            with self._condition:
                self._queue.remove(ticket)
                self._condition.notify_all()

    def _ahead(self, ticket: object) -> int:
        with self._condition:
            return self._queue.index(ticket)
