"""Pytest plug-in of `upstream_model_tests.py`: attaches a method to the models that a test makes, and records outcomes.

    pytest -p upstream_plugin --outcomes FILE [--attach-retention R | --attach-all-kept] tests/models/...

`FILE` gets one line of JSON for each finished test: its outcome, the exception that it raised, how many models were
attached in it, how many `attach` refused, and how many videos were encoded. Without one of the two last options nothing
is attached, and the models are those of `transformers`, untouched.

A model is attached as soon as it can be: at the end of its constructor, or of `from_pretrained` for one that is loaded.
It is released when the test ends. Copies are not attached: what a test does with the copy of an attached model is part
of what is tested.
"""

import functools
import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

# Imported before the conftest.py of the checkout puts its own sources into `sys.path`.
import transformers

import tangovlm
from tangovlm import registry
from tangovlm.tokens import Selection, VideoTokens

OUTCOMES = ("passed", "skipped", "xfailed", "xpassed", "failed", "error")
"""From the mildest to the worst: a test with several reports (its phases, its subtests) has the worst of them."""


@dataclass(frozen=True)
class KeepAll:
    """A method before the language model that keeps every token as it is, and yet runs all the hooks."""

    retention: float = 0.999
    name = "keep-all"
    stage = "before"
    needs: frozenset[str] = frozenset()

    def __call__(self, tokens: VideoTokens) -> Selection:
        frames, height, width, depth = tokens.features.shape
        indices = torch.arange(tokens.count, device=tokens.features.device)
        sources = indices.view(frames, height, width)
        return Selection(indices, tokens.features.reshape(-1, depth), sources, (frames,))


class Attacher:
    """Attaches the supported models that are made between `patch` and the end of the process, one test at a time."""

    def __init__(self, method: Any) -> None:
        self._method = method
        self._sessions: list[Any] = []
        self._met = 0
        self._open = ExitStack()
        self._loading = 0

    def patch(self) -> None:
        """Let every supported class of the installed transformers attach its instances."""
        for name in registry.families():
            if (model_class := getattr(transformers, name, None)) is not None:
                model_class.__init__ = self._attaching(model_class.__init__)
        transformers.PreTrainedModel.from_pretrained = classmethod(
            self._loading_with(transformers.PreTrainedModel.from_pretrained.__func__)
        )

    def _attaching(self, original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        def constructor(model: Any, *args: Any, **kwargs: Any) -> None:
            original(model, *args, **kwargs)
            # A subclass with a constructor of its own is not complete yet.
            if not self._loading and type(model).__init__ is constructor:
                self.attach(model)

        return constructor

    def _loading_with(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def from_pretrained(model_class: type, *args: Any, **kwargs: Any) -> Any:
            self._loading += 1
            try:
                loaded = original(model_class, *args, **kwargs)
            finally:
                self._loading -= 1
            # With `output_loading_info=True` it is a pair.
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            if not self._loading and type(model).__name__ in registry.families():
                self.attach(model)
            return loaded

        return from_pretrained

    def attach(self, model: Any) -> None:
        """Attach a model until `release`."""
        self._met += 1
        self._sessions.append(self._open.enter_context(tangovlm.attach(model, self._method)))

    def release(self) -> dict[str, int]:
        """Leave all contexts; counts of the models and videos since the last time."""
        videos = sum(len(session.report.videos) for session in self._sessions)
        counts = {"models": len(self._sessions), "refused": self._met - len(self._sessions), "videos": videos}
        self._sessions, self._met = [], 0
        self._open.close()
        return counts


class Recorder:
    """Writes what became of each test."""

    def __init__(self, path: Path, attacher: Attacher | None) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._attacher = attacher
        self._row: dict[str, Any] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._row = {"test": nodeid, "outcome": "passed", "raised": "", "message": ""}
        # Both runs draw the same numbers, so that they differ by what is attached alone.
        random.seed(0)
        numpy.random.seed(0)
        torch.manual_seed(0)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[Any]) -> Iterator[None]:
        report = yield
        report.raised = "" if call.excinfo is None else call.excinfo.typename
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Iterator[None]:
        try:
            return (yield)
        finally:
            if self._attacher is not None:
                self._row |= self._attacher.release()

    def pytest_runtest_logreport(self, report: Any) -> None:
        outcome = report.outcome
        if report.when != "call" and outcome == "failed":
            outcome = "error"
        elif hasattr(report, "wasxfail"):
            outcome = "xfailed" if outcome == "skipped" else "xpassed"
        if OUTCOMES.index(outcome) > OUTCOMES.index(self._row["outcome"]):
            message = getattr(getattr(report.longrepr, "reprcrash", None), "message", "")
            self._row |= {"outcome": outcome, "raised": getattr(report, "raised", ""), "message": message[:300]}

    def pytest_runtest_logfinish(self) -> None:
        self._file.write(json.dumps(self._row) + "\n")
        self._file.flush()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tangovlm")
    group.addoption("--outcomes", type=Path, required=True, help="file for one line a test")
    group.addoption("--attach-retention", type=float, help="attach Tango with this retention to every model")
    group.addoption("--attach-all-kept", action="store_true", help="attach a method that keeps every token")


def pytest_configure(config: pytest.Config) -> None:
    if Path(transformers.__file__).is_relative_to(config.rootpath):
        raise pytest.UsageError(f"transformers was imported from {config.rootpath}, not from the environment")
    retention = config.getoption("--attach-retention")
    method = KeepAll() if config.getoption("--attach-all-kept") else retention and tangovlm.Tango(retention=retention)
    attacher = Attacher(method) if method else None
    if attacher is not None:
        attacher.patch()
    config.pluginmanager.register(Recorder(config.getoption("--outcomes"), attacher), "tangovlm-recorder")
