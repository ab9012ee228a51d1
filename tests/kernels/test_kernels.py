"""Which variant runs where, and what is said where there is none."""

import pytest
import torch

from tangovlm import kernels
from tangovlm.kernels import fallback_note, variant

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize("installed", [True, False])
def test_triton_runs_on_cuda_where_it_is_installed(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_has_triton", lambda: installed)
    monkeypatch.setattr(kernels, "_capability", lambda _device: (8, 0))
    assert variant(CPU) == "torch"
    assert fallback_note(CPU) == ()
    assert variant(CUDA) == ("triton" if installed else "torch")
    assert bool(fallback_note(CUDA)) is not installed
    assert all("pip install triton" in note for note in fallback_note(CUDA))


def test_old_devices_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_has_triton", lambda: True)
    monkeypatch.setattr(kernels, "_capability", lambda _device: (7, 5))
    assert variant(CUDA) == "torch"
    assert fallback_note(CUDA) == (kernels.OLD_DEVICE,)


def test_the_note_of_a_missing_kernel_reaches_the_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    from tangovlm import Tango, VideoTokens, method
    from tangovlm.methods.common import groups

    monkeypatch.setattr(groups, "fallback_note", lambda _device: (kernels.NO_TRITON,))
    tokens = VideoTokens(torch.rand(4, 3, 3, 12), torch.rand(4, 3, 3), torch.arange(4.0))
    for pruner in (Tango(retention=0.3), method("holitom", retention=0.3)):
        assert pruner(tokens).notes == (kernels.NO_TRITON,)
