"""Each part of the doctor's table says OK where all is well, and FAILED in one line where it is not."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import metadata
from typing import Any

import pytest
import torch

from tangovlm.doctor import (
    FAILED,
    MISSING,
    OK,
    Examination,
    Row,
    devices,
    examine,
    families,
    kernels,
    packages,
    video,
    vllm,
)
from tangovlm.doctor import cache as caches
from tangovlm.doctor.rows import NotInstalledError
from tangovlm.errors import InputError
from tangovlm.selfcheck.twins import TWINS
from tangovlm.serve import compatibility


def rows_of(examinations: Iterable[Examination]) -> dict[str, Row]:
    return {row.name: row for row in (examination.row() for examination in examinations)}


def raising(error: BaseException) -> Callable[[], str]:
    def work(*_: Any) -> str:
        raise error

    return work


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "status", "detail"),
    [
        (lambda: "all is\nwell", OK, "all is well"),
        (raising(NotInstalledError("only for\nplots")), MISSING, "only for plots"),
        (raising(ValueError("two\nlines")), FAILED, "ValueError: two lines"),
        (raising(KeyError()), FAILED, "KeyError"),
        (raising(SystemExit("gone")), FAILED, "SystemExit: gone"),
    ],
)
def test_a_row(work: Callable[[], str], status: str, detail: str) -> None:
    row = Examination("part", "name", work).row()
    assert (row.part, row.name, row.status, row.detail) == ("part", "name", status, detail)
    assert 0 <= row.seconds < 1


def test_an_interruption_is_no_row() -> None:
    with pytest.raises(KeyboardInterrupt):
        Examination("part", "name", raising(KeyboardInterrupt())).row()


def test_parts_in_order() -> None:
    parts = [examination.part for examination in examine()]
    assert list(dict.fromkeys(parts)) == ["packages", "devices", "families", "kernels", "video", "vllm", "cache"]
    parts = [examination.part for examination in examine("qwen2-vl")]
    assert list(dict.fromkeys(parts)) == ["packages", "devices", "families", "cache"]
    with pytest.raises(InputError, match=r"unknown family 'qwen': choose one of .*glm-4v, internvl, .*qwen2-vl"):
        next(iter(examine("qwen")))


# --- packages -------------------------------------------------------------------------------------------------------


def test_packages_are_those_of_the_metadata() -> None:
    lines = [line for line in metadata.requires("tangovlm") or [] if "extra" not in line]
    assert {re.split(r"[<>=!~ ]", line)[0].lower().replace("_", "-") for line in lines} == set(packages.NEEDED)
    assert packages.requirements()["transformers"]
    found = rows_of(packages.examinations())
    assert {"python", "tangovlm", "torch", "transformers", "av", "numpy", "pillow", "typer"} <= set(found)
    assert not {"pytest", "ruff", "mypy"} & set(found)
    for name in ("torch", "av", "pillow", "typer"):
        assert found[name].status == OK
    assert found["torch"].detail == torch.__version__
    assert all(found[name].status in (OK, MISSING) for name in packages.OPTIONAL)


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("av", "triton"):
        monkeypatch.setitem(sys.modules, name, None)
    found = rows_of(packages.examinations())
    assert (found["av"].status, found["triton"].status) == (FAILED, MISSING)
    assert "pip install 'av" in found["av"].detail
    assert found["triton"].detail == "only for the fast kernels on a GPU"


def test_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_name: str) -> None:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", absent)
    found = rows_of(packages.examinations())
    assert "not installed as a package" in found["tangovlm"].detail
    assert found["torch"].status == OK


def test_a_package_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("av.__version__", "17.0.1")
    row = rows_of(packages.examinations())["av"]
    assert row.status == FAILED
    assert "17.0.1 is installed, and tangovlm requires" in row.detail


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("5.24.0", ">=5.17,<6", True), ("5.25.0.dev0", ">=5.17,<6", True), ("5.16.1", ">=5.17,<6", False),
        ("2.13.0+cpu", ">=2.6", True), ("of unknown version", ">=2.6", True), ("1", "", True),
    ],
)  # fmt: skip
def test_versions(version: str, wanted: str, fits: bool) -> None:
    assert packages._fits(version, wanted) is fits


def test_a_release_of_transformers_that_is_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows_of(packages.examinations())["transformers"].detail.endswith(", tested")
    monkeypatch.setattr("transformers.__version__", "5.99.0")
    row = rows_of(packages.examinations())["transformers"]
    assert row.status == OK
    assert "5.99.0, not tested" in row.detail


# --- devices and kernels --------------------------------------------------------------------------------------------


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows_of(devices.examinations())
    assert found["cpu"].status == OK
    assert "threads of torch" in found["cpu"].detail
    if not torch.cuda.is_available():
        assert found["cuda"].status == MISSING
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda one, other: one)
    assert rows_of(devices.examinations())["cpu"].status == FAILED


def test_kernels_on_the_cpu() -> None:
    found = rows_of(kernels.examinations())
    assert {name for name in found if name.endswith("torch, cpu")} == {
        f"{kernel}, torch, cpu" for kernel in ("dpc_knn", "st_rope", "blend")
    }
    assert all(row.status in (OK, MISSING) for row in found.values())


@pytest.mark.parametrize(
    ("kernel", "function"),
    [("dpc_knn", "dpc_knn_torch"), ("st_rope", "rotate_rows_torch"), ("blend", "blend_torch")],
)
def test_a_kernel_that_is_wrong(kernel: str, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"tangovlm.kernels.{kernel}.pytorch"
    original = getattr(sys.modules[module], function)

    def wrong(*arguments: Any) -> Any:
        made = original(*arguments)
        return made + 1e-3 if isinstance(made, torch.Tensor) else made._replace(labels=made.labels.flip(0))

    monkeypatch.setattr(f"{module}.{function}", wrong)
    found = rows_of(kernels.examinations())
    assert [name for name, row in found.items() if row.status == FAILED] == [f"{kernel}, torch, cpu"]
    assert "reference" in found[f"{kernel}, torch, cpu"].detail


@pytest.mark.parametrize("check", [kernels._dpc_knn, kernels._st_rope, kernels._blend])
def test_kernels_in_triton(check: Callable[[str, str], str]) -> None:
    """On the interpreter, as in tests/kernels; on a device in `test_all_is_well_on_a_gpu`."""
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    if torch.cuda.is_available() or isinstance(triton.language.cdiv, triton.JITFunction):
        pytest.skip("Triton was imported without its interpreter")
    assert "reference" in check("triton", "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_all_is_well_on_a_gpu() -> None:
    found = rows_of([*devices.examinations(), *kernels.examinations()])
    assert found["cuda:0"].status == OK
    for kernel in ("dpc_knn", "st_rope", "blend"):
        assert found[f"{kernel}, torch, cuda:0"].status == OK
        assert found[f"{kernel}, triton, cuda:0"].status == OK


# --- families -------------------------------------------------------------------------------------------------------


def test_families_by_name() -> None:
    assert families.select(None) == list(TWINS)
    assert families.select("qwen3-vl") == ["qwen3_vl", "qwen3_vl_moe"]
    titles = [examination.name for examination in families.examinations(families.select(None))]
    assert len(set(titles)) == len(titles)
    assert {"qwen2-vl", "internvl (internvl_3_5)"} <= set(titles)


def test_a_family_that_is_right() -> None:
    (row,) = rows_of(families.examinations(["llava_onevision"])).values()
    assert (row.status, row.detail) == (OK, "16 checks")


def test_a_family_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.selfcheck.checks.Checks.second_turn", raising(ValueError("a bug\nof the host")))
    (row,) = rows_of(families.examinations(["qwen3_vl"])).values()
    assert (row.status, row.detail) == (
        FAILED, "RuntimeError: 1 of 7 checks fail: second turn: ValueError: a bug of the host",
    )  # fmt: skip


def test_a_twin_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TWINS, "qwen2_vl", replace_entry("qwen2_vl", module="no_such_module"))  # type: ignore[arg-type]
    (row,) = rows_of(families.examinations(["qwen2_vl"])).values()
    assert row.status == FAILED
    assert "no_such_module" in row.detail


def replace_entry(name: str, **changes: str) -> Any:
    return TWINS[name]._replace(**changes)


# --- video, vLLM, cache ---------------------------------------------------------------------------------------------


def test_a_clip_is_decoded() -> None:
    (row,) = rows_of(video.examinations()).values()
    assert (row.status, row.detail) == (OK, "16 frames with correct times and pixels")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frames: replace(frames, pixels=frames.pixels.roll(1, 0)), "differs from the rendered one"),
        (lambda frames: replace(frames, pixels=frames.pixels.flip(1)), "differs from the rendered one"),
        (lambda frames: replace(frames, pixels=frames.pixels.flip(2)), "differs from the rendered one"),
        (lambda frames: replace(frames, timestamps_s=frames.timestamps_s + 0.01), "frames of a clip of"),
        (lambda frames: replace(frames, notes=("a frame was damaged",)), "a frame was damaged"),
    ],
    ids=["order", "colours", "upside down", "times", "notes"],
)
def test_a_clip_is_decoded_wrongly(change: Callable[[Any], Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import tangovlm.video

    original = tangovlm.video.decode
    monkeypatch.setattr(tangovlm.video, "decode", lambda *given, **options: change(original(*given, **options)))
    (row,) = rows_of(video.examinations()).values()
    assert row.status == FAILED
    assert words in row.detail


def test_internals_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "find_spec", lambda _name: None)
    (row,) = rows_of(vllm.examinations()).values()
    assert (row.status, row.detail) == (MISSING, "only for serving")
    monkeypatch.setattr(vllm, "find_spec", lambda _name: "here")
    monkeypatch.setattr(compatibility, "installed_release", lambda: "0.99.0")
    monkeypatch.setattr(
        compatibility, "check_internals", lambda: [("vllm.one", compatibility.OK), ("vllm.two", compatibility.OK)]
    )
    (row,) = rows_of(vllm.examinations()).values()
    assert row.status == OK
    assert row.detail.startswith("vLLM 0.99.0, not tested (0.32 is): 2 internals")
    monkeypatch.setattr(
        compatibility, "check_internals", lambda: [("vllm.one", compatibility.OK), ("vllm.two", "is missing")]
    )
    (row,) = rows_of(vllm.examinations()).values()
    assert row.status == FAILED
    assert "1 of 2 internals differ: vllm.two: is missing" in row.detail


def test_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (row,) = rows_of(caches.examinations()).values()
    assert (row.status, row.detail) == (OK, str(tmp_path / "tangovlm" / "checks"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (row,) = rows_of(caches.examinations()).values()
    assert row.status == MISSING
    assert row.detail.startswith("not cached between processes: ")
