"""Runs command lines of `tangovlm` one after another, because importing VLMEvalKit takes longer than all of them.

Standard input: a JSON list of `{"args": [...], "kill": [file, lines] or null}`. A command with `kill` runs in a process
of its own, which is killed as soon as the file has so many lines. The last line of standard output: a JSON list with
the exit status, standard output and standard error of each.
"""

import contextlib
import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tangovlm.cli import main


def run(args: list[str]) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(args)
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def run_and_kill(args: list[str], file: Path, lines: int) -> dict[str, Any]:
    child = os.fork()
    if child == 0:
        run(args)
        os._exit(0)
    while not file.exists() or file.read_bytes().count(b"\n") < lines:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return {"status": -os.WTERMSIG(status), "out": "", "err": ""}


results = []
for command in json.load(sys.stdin):
    kill = command["kill"]
    results.append(run_and_kill(command["args"], Path(kill[0]), kill[1]) if kill else run(command["args"]))
print(json.dumps(results))
