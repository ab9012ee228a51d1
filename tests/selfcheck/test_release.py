"""When the check of an unknown release runs, which results are cached, and that a program cannot observe it."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.utils import logging

import tangovlm
from tangovlm import registry
from tangovlm.errors import ModelError
from tangovlm.methods.build import Pair
from tangovlm.models.common import transformers_compat as versions
from tangovlm.selfcheck import release, result_cache
from tangovlm.selfcheck.isolation import is_isolated, run_isolated
from tangovlm.selfcheck.twins import TWINS, load, of_class, twins
from tangovlm.selfcheck.twins.common.norms import Norms

Twin = Any


class Runs:
    """Counts the runs of checks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(release, "run_isolated", self)

    def __call__(self, work: Callable[[], str]) -> str:
        self.count += 1
        return run_isolated(work)


@pytest.fixture(scope="module")
def twin() -> Twin:
    return load("llava_onevision")()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(monkeypatch)


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Runs of checks that pass without computing anything, for tests of when they run and what is cached."""
    pass_at_once(monkeypatch)
    return Runs(monkeypatch)


def pass_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "_run_checks", lambda *_: "")


def attach(twin: Twin, pruner: Any = None) -> None:
    with tangovlm.attach(twin.model, pruner or Norms()):
        pass


def clear_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the results that are cached in the process."""
    monkeypatch.setattr(release, "_results", {})


# --- when it runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "tested"),
    [
        ("5.17.0", True), ("5.24.0", True), ("5.23.7", True), ("5.23.0.post1", True), ("5.24.0+local.1", True),
        ("5.16.9", False), ("5.25.0", False), ("6.0.0", False), ("5.2", False), ("5.240.0", False),
        ("5.24.0rc1", False), ("5.24.0.dev0", False), ("5.25.0.dev0", False), ("", False),
    ],
)  # fmt: skip
def test_tested_releases(version: str, tested: bool) -> None:
    assert versions.is_tested(version) is tested


def test_nothing_is_done_on_a_tested_release() -> None:
    """The modules of the check are not even imported."""
    program = """
import sys, tangovlm
model = tangovlm.load(None).model
sys.modules["transformers"].__version__ = "5.23.9"
with tangovlm.attach(model, tangovlm.Tango(retention=0.5)):
    pass
found = {"tangovlm.selfcheck.twins.common.base", "tangovlm.selfcheck.checks"} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.usefixtures("unknown_release")
def test_full_retention_needs_no_check(twin: Twin, runs: Runs) -> None:
    attach(twin, tangovlm.Tango(retention=1.0))
    attach(twin, tangovlm.method("fastv", retention=1.0))
    assert runs.count == 0
    attach(twin)
    assert runs.count == 1


@pytest.mark.usefixtures("unknown_release")
def test_it_runs_once_in_a_process(twin: Twin, passing: Runs) -> None:
    for _ in range(3):
        attach(twin, Norms(0.5))
    attach(load("llava_onevision")())
    assert passing.count == 1
    attach(load("qwen2_vl")())
    assert passing.count == 2


@pytest.mark.usefixtures("unknown_release")
def test_it_runs_once_for_several_threads(runs: Runs) -> None:
    models = [load("llava_onevision")() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(attach, models))
    assert runs.count == 1


@pytest.mark.usefixtures("unknown_release")
def test_a_method_inside_the_model_is_checked_by_itself(
    twin: Twin, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tangovlm.selfcheck.checks import Checks

    ran: list[str] = []
    monkeypatch.setattr(Checks, "inside", lambda _self, name: ran.append(name))
    attach(twin)
    assert (runs.count, ran) == (1, [])
    attach(twin, tangovlm.method("dart", retention=0.75))
    attach(twin, Pair(tangovlm.Tango(), tangovlm.method("fastv")))
    assert (runs.count, ran) == (3, ["dart", "fastv"])


@pytest.mark.usefixtures("unknown_release")
def test_a_model_without_a_twin_is_not_refused(monkeypatch: pytest.MonkeyPatch, twin: Twin, runs: Runs) -> None:
    monkeypatch.setattr("tangovlm.selfcheck.twins.TWINS", {})
    with pytest.warns(UserWarning, match=r"5\.99\.0 is not tested, and there is no check for LlavaOnevision"):
        attach(twin)
    assert runs.count == 0


def test_every_model_class_has_a_twin() -> None:
    assert {entry.architecture for entry in TWINS.values()} == set(registry.families())
    for name, cls in twins().items():
        model = cls().model
        assert name in of_class(type(model))
        entry = TWINS[name]
        assert (entry.family, entry.architecture) == (registry.family_for(model).name, type(model).__name__)


# --- cached results -------------------------------------------------------------------------------------------------


def test_success_is_cached_for_other_processes(
    unknown_release: Path, twin: Twin, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(twin)
    (file,) = (unknown_release / "tangovlm" / "checks").iterdir()
    assert file.suffix == ".json"
    clear_results(monkeypatch)
    attach(twin)
    assert runs.count == 1
    pass_at_once(monkeypatch)
    for changed, version in (("torch", "9.9.9"), ("tangovlm", "9.9.9"), ("transformers", "5.98.0")):
        clear_results(monkeypatch)
        monkeypatch.setattr(f"{changed}.__version__", version)
        attach(twin)
    assert runs.count == 4


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}", b"\xff\x00", b"[" * 100_000])
def test_a_damaged_file_is_replaced(
    unknown_release: Path, twin: Twin, passing: Runs, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    attach(twin)
    (file,) = (unknown_release / "tangovlm" / "checks").iterdir()
    whole = file.read_bytes()
    file.write_bytes(content)
    clear_results(monkeypatch)
    attach(twin)
    assert passing.count == 2
    assert file.read_bytes() == whole


def test_a_read_only_cache_is_not_an_error(
    unknown_release: Path, twin: Twin, passing: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown_release.write_text("no folder")
    attach(twin)
    clear_results(monkeypatch)
    attach(twin)
    assert passing.count == 2


def test_a_full_disk_leaves_nothing_behind(
    unknown_release: Path, twin: Twin, passing: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    attach(twin)
    assert list((unknown_release / "tangovlm" / "checks").iterdir()) == []


def test_a_user_without_a_home(
    unknown_release: Path, twin: Twin, passing: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    attach(twin)
    assert passing.count == 1


@pytest.mark.parametrize(
    ("platform", "variables", "wanted"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x"),
        ("linux", {"XDG_CACHE_HOME": ""}, "/home/u/.cache"),
        ("darwin", {}, "/home/u/Library/Caches"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local"),
        ("win32", {}, "/home/u/.cache"),
    ],
)
def test_the_cache_folder(
    platform: str, variables: dict[str, str], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/u"))
    assert result_cache.folder() == Path(wanted) / "tangovlm" / "checks"


def test_a_failure_is_not_cached_for_other_processes(
    unknown_release: Path, twin: Twin, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("tangovlm.selfcheck.checks.TOLERANCE", -1.0)
        for _ in range(2):
            with pytest.raises(ModelError, match=r"LlavaOnevisionForConditionalGeneration fails the check 'prefill'"):
                attach(twin)
    assert runs.count == 1
    assert not unknown_release.exists()
    clear_results(monkeypatch)
    attach(twin)
    assert runs.count == 2


@pytest.mark.usefixtures("unknown_release")
def test_an_error_within_a_check_is_one_line(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("a message\nof two lines")

    monkeypatch.setattr(type(twin), "reference", crash)
    with pytest.raises(ModelError, match=r"fails the check 'prefill' on it \(RuntimeError: a message of two lines\): "):
        attach(twin)


# --- isolation ------------------------------------------------------------------------------------------------------


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def low_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def errors_for_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


PLACES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "nothing": nullcontext,
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "meta device": lambda: torch.device("meta"),
    "default device": lambda: default_device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "low precision": low_precision,
    "deterministic": deterministic,
    "errors for warnings": errors_for_warnings,
}


def state() -> dict[str, Any]:
    """Everything that a program could observe."""
    return {
        "random numbers": torch.get_rng_state().tolist(),
        "python's": random.getstate(),
        "numpy's": str(np.random.get_state()),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "precision": (torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled),
        "threads": (torch.get_num_threads(), threading.enumerate()),
        "warnings": list(warnings.filters),
        "verbosity": logging.get_verbosity(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@pytest.mark.usefixtures("unknown_release")
@pytest.mark.parametrize("place", PLACES)
def test_a_program_cannot_observe_the_check(place: str, runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    twin = load("llava_onevision")()
    with PLACES[place]():
        before = state()
        with tangovlm.attach(twin.model, Norms()):
            assert state() == before
        assert state() == before
    assert runs.count == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("unknown_release")
def test_a_program_cannot_observe_a_failure(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.selfcheck.checks.TOLERANCE", -1.0)
    before = state()
    with pytest.raises(ModelError):
        attach(twin)
    assert state() == before


def test_work_in_isolation_raises_and_returns() -> None:
    assert run_isolated(is_isolated)
    assert not is_isolated()
    with pytest.raises(ZeroDivisionError):
        run_isolated(lambda: 1 // 0)


def test_creating_a_twin_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    one, other = (load("llava_onevision")().model.state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], other[name]) for name in one)
