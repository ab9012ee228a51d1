"""The base class of the methods before the language model: what it does so that a method only writes `reduce`."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import pytest
import torch

import tangovlm
from tangovlm import Selection, Tango, VideoTokens, budget
from tangovlm.errors import InputError, MethodError
from tangovlm.methods.common.base import NO_FRAME_FEATURES, PreLLMMethod
from tangovlm.methods.common.selection import keep_only
from tangovlm.tokens import NO_TIMESTAMPS


@dataclass(frozen=True)
class First(PreLLMMethod):
    """Keeps the first tokens of the video; needs every signal."""

    name: ClassVar[str] = "first"
    needs: ClassVar[frozenset[str]] = frozenset({"saliency", "keys", "timestamps", "frame_features"})

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        assert not torch.is_grad_enabled()
        return keep_only(tokens, torch.arange(count).flip(0))


def video(**signals: torch.Tensor) -> VideoTokens:
    return VideoTokens(torch.arange(24.0, requires_grad=True).view(2, 3, 4, 1), **signals)


def everything() -> dict[str, torch.Tensor]:
    return {
        "saliency": torch.ones(2, 3, 4),
        "keys": torch.ones(2, 3, 4, 2),
        "timestamps": torch.tensor([0.0, 1.0]),
        "frame_features": torch.ones(2, 3),
    }


@pytest.mark.parametrize("retention", [0.01, 0.29, 0.5, 0.999])
def test_reduce_gets_the_exact_budget_and_runs_without_gradients(retention: float) -> None:
    selection = First(retention)(video(**everything()))
    assert selection.indices.tolist() == list(range(budget.count(retention, 24)))
    assert not selection.features.requires_grad
    assert selection.notes == ()


def test_missing_signals_are_refused_or_noted() -> None:
    with pytest.raises(InputError) as refused:
        First()(video())
    assert str(refused.value) == (
        "First needs VideoTokens.saliency (T, H, W) and VideoTokens.keys (T, H, W, Dk): pass both, or choose a method "
        "that needs neither"
    )
    signals = everything()
    del signals["keys"], signals["timestamps"], signals["frame_features"]
    with pytest.raises(InputError, match=r"^First needs VideoTokens\.keys \(T, H, W, Dk\): pass it, .* needs none$"):
        First()(video(**signals))
    signals["keys"] = everything()["keys"]
    assert First()(video(**signals)).notes == (NO_TIMESTAMPS, NO_FRAME_FEATURES)


def test_a_retention_of_1_is_the_identity_and_needs_no_signal() -> None:
    selection = First(1.0)(video())
    assert selection.indices.tolist() == list(range(24))
    assert selection.features.flatten().tolist() == list(range(24))
    assert selection.segments == (2,)
    assert selection.notes == (NO_FRAME_FEATURES,)  # the one signal that a segmentation may read


@dataclass(frozen=True)
class Lenient(First):
    """Works without keys and frame features."""

    name: ClassVar[str] = "lenient"
    optional: ClassVar[Mapping[str, str]] = {"keys": "no keys", "frame_features": "no global vectors"}


def test_optional_signals_have_notes_of_their_own() -> None:
    signals = everything()
    assert Lenient()(video(**signals)).notes == ()
    del signals["keys"], signals["frame_features"]
    assert Lenient()(video(**signals)).notes == ("no global vectors", "no keys")
    del signals["saliency"]
    with pytest.raises(InputError, match=r"^Lenient needs VideoTokens\.saliency \(T, H, W\): pass it"):
        Lenient()(video(**signals))
    # Neither is read if everything is kept.
    assert Lenient(1.0)(video()).notes == ()


def test_common_fields_are_validated_and_come_first() -> None:
    assert [field.name for field in fields(First)] == ["retention", "exact"]
    for retention in (0, 1.5, True, float("nan")):
        with pytest.raises(InputError, match="retention"):
            First(retention)
    with pytest.raises(MethodError, match="exact must be True or False"):
        First(exact=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="abstract"):
        PreLLMMethod()  # type: ignore[abstract]


@pytest.mark.parametrize("name", sorted(name for name, cls in tangovlm.methods().items() if cls.stage == "pre-llm"))
def test_every_method_derives_from_it_and_can_be_copied(name: str) -> None:
    method = tangovlm.method(name, retention=0.3)
    assert isinstance(method, PreLLMMethod)
    assert [field.name for field in fields(method) if field.init][:2] == ["retention", "exact"]
    assert replace(method, retention=0.2) == tangovlm.method(name, retention=0.2)
    assert pickle.loads(pickle.dumps(method)) == method


def test_variants_of_tango_are_the_same_class() -> None:
    for built in (Tango.release(retention=0.2), Tango.paper(retention=0.2)):
        assert type(built) is Tango
        assert pickle.loads(pickle.dumps(built)) == built
