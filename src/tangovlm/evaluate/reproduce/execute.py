"""Runs a plan: one process of the harness per row, so that a model is loaded once for all benchmarks."""

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

from .harnesses.base import Harness, RowJob
from .planning import DONE, Plan, Step
from .store import Store

_TAIL = 65536


def execute(plan: Plan, harness: Harness, store: Store, data: Path | None, report: Callable[[str], None]) -> None:
    """Run all rows that are not finished.

    Parameters
    ----------
    data: folder of miniature data sets; None for the real ones.
    report: called with a line of progress.

    Raises
    ------
    InputError: see `Store.states`; a row whose harness failed, which ends the run.
    """
    states = store.states()
    steps = plan.reachable
    for number, step in enumerate(steps, start=1):
        name = f"row {number} of {len(steps)}, {step.row.key}"
        if states[step.row.key] == DONE:
            report(f"{name}: already finished")
            continue
        report(f"{name}: {harness.name} is running, its output goes to {store.log(step)}")
        store.begin(step)
        job = RowJob(plan, step, store.harness_folder(step), data)
        command = harness.command(job)
        _call(command.words, command.environment, store.log(step), name)
        store.finish(step, harness.collect(job))


def _call(words: list[str], environment: dict[str, str], log: Path, name: str) -> None:
    """Run a command and wait for it.

    Raises
    ------
    InputError: the command fails; the message has the last line of its output.
    """
    with log.open("ab") as out:
        # In a process group of its own, so that an interrupt can end the command and all its children.
        options: dict[str, Any] = {"start_new_session": True} if os.name == "posix" else {}
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=os.environ | environment, **options
            )
        except OSError as error:
            raise InputError(f"{name}: cannot start {words[0]} ({error.strerror})") from error
        try:
            with _sigterm_as_interrupt():
                status = process.wait()
        except BaseException:
            _terminate(process)
            raise
    if status:
        raise InputError(f"{name}: the harness ended with status {status} ({_last_message(log)}): see {log}")


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, so that child processes are ended too."""
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


def _terminate(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its children."""
    if sys.platform == "win32":
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_message(log: Path) -> str:
    """The last line of a log that names an error, or else the last line that is not empty."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0] or line.startswith(("tangovlm:", "error:"))]
    return ((errors or lines or ["no output"])[-1])[:300]


def unfinished(plan: Plan, states: dict[str, str]) -> tuple[Step, ...]:
    """Rows that are still to be run."""
    return tuple(step for step in plan.reachable if states[step.row.key] != DONE)
