"""Why a device cannot be used, and what is refused before anything is imported."""

from pathlib import Path

import pytest
import torch

from tangovlm.cli.checks import check_device, check_found, check_model
from tangovlm.errors import InputError, VideoError


@pytest.mark.parametrize(
    ("name", "build", "gpus", "reason"),
    [
        ("cuda", None, 0, "this build of PyTorch is for CPUs only"),
        ("cuda:1", "13.0", 0, "PyTorch finds no GPU"),
        ("cuda:1", "13.0", 1, "PyTorch finds 1 GPU, counted from 0"),
        ("cuda", "13.0", 1, "out of memory"),
        ("meta", None, 0, "out of memory"),
    ],
)
def test_why_a_device_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, name: str, build: str | None, gpus: int, reason: str
) -> None:
    def fail(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("out of memory.\nA long explanation.")

    monkeypatch.setattr(torch, "zeros", fail)
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(InputError) as error:
        check_device(name)
    assert str(error.value) == f"--device {name} cannot be used here ({reason}): try cpu, or leave it out"


def test_what_is_missing(tmp_path: Path) -> None:
    check_found(str(tmp_path))
    for name in ("-", "", "https://example.org/a.mp4"):
        check_found(name)
    with pytest.raises(VideoError, match=r"no\.mp4: cannot be read \(No such file or directory\)"):
        check_found(str(tmp_path / "no.mp4"))
    for name in (None, "org/name", "tangovlm-tiny", str(tmp_path)):
        check_model(name)
    with pytest.raises(InputError, match="no such folder"):
        check_model(str(tmp_path / "no"))


def test_the_folder_of_an_unknown_user() -> None:
    with pytest.raises(InputError, match="~no-such-user-here/model: there is no such folder"):
        check_model("~no-such-user-here/model")


def test_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").touch()
    for name, reason in (("plain.txt/b.mp4", "Not a directory"), ("c" * 300, "File name too long")):
        with pytest.raises(VideoError, match=reason):
            check_found(str(tmp_path / name))
