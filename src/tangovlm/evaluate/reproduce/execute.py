"""Running a plan: one process of the harness a row, so that a model is loaded once for all its benchmarks."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError

from .harnesses.base import Harness, Work
from .planning import DONE, Plan, Step
from .store import Store

_TAIL = 65536


def execute(plan: Plan, harness: Harness, store: Store, data: Path | None, tell: Callable[[str], None]) -> None:
    """Run what is not finished.

    Parameters
    ----------
    data: a folder of miniature data sets; None for the real ones.
    tell: takes a line of news.

    Raises
    ------
    InputError: see `Store.states`; a row whose harness failed, which ends the run.
    """
    states = store.states()
    steps = plan.reachable
    for number, step in enumerate(steps, start=1):
        name = f"row {number} of {len(steps)}, {step.row.key}"
        if states[step.row.key] == DONE:
            tell(f"{name}: finished before")
            continue
        tell(f"{name}: {harness.name} is running, its words go to {store.log(step)}")
        store.begin(step)
        work = Work(plan, step, store.harness_folder(step), data)
        command = harness.command(work)
        _call(command.words, command.environment, store.log(step), name)
        store.finish(step, harness.collect(work))


def _call(words: list[str], environment: dict[str, str], log: Path, name: str) -> None:
    """Run a command to its end.

    Raises
    ------
    InputError: it fails; tells the last line that it said.
    """
    with log.open("ab") as out:
        # Its processes form a group, so that an interruption ends all of them.
        options: dict[str, Any] = {"start_new_session": True} if os.name == "posix" else {}
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=os.environ | environment, **options
            )
        except OSError as error:
            raise InputError(f"{name}: cannot start {words[0]} ({error.strerror})") from error
        try:
            with _ended_as_interrupted():
                status = process.wait()
        except BaseException:
            _end(process)
            raise
    if status:
        raise InputError(f"{name}: the harness ended with status {status} ({last_words(log)}): see {log}")


@contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Take the signal that ends a process for an interruption, so that what it started is ended too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process with all that it started."""
    if sys.platform == "win32":
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_words(log: Path) -> str:
    """The last line of a log that says something; of an error, the line that names it."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0] or line.startswith(("tangovlm:", "error:"))]
    return ((errors or lines or ["it said nothing"])[-1])[:300]


def unfinished(plan: Plan, states: dict[str, str]) -> tuple[Step, ...]:
    """Rows that will run."""
    return tuple(step for step in plan.reachable if states[step.row.key] != DONE)
