"""The options of a server about pruning, and mistakes in them."""

from types import SimpleNamespace

import pytest

import tangovlm
from tangovlm import registry
from tangovlm.errors import InputError, MethodError
from tangovlm.serve.options import ServeOptions, without_ours
from tests.support.adaptive import LargeTokens


def of(given: object) -> ServeOptions | None:
    return ServeOptions.of(SimpleNamespace(tango=given))


def test_without_the_key_nothing_is_pruned() -> None:
    assert ServeOptions.of(SimpleNamespace()) is None


def test_defaults_are_the_papers() -> None:
    options = of({})
    assert options is not None
    assert options.pruner(options.retention) == tangovlm.Tango(retention=0.1)


def test_settings_reach_the_method() -> None:
    options = of({"retention": 0.2, "params": {"neighbors": 5}})
    assert options is not None
    assert options.pruner(0.2) == tangovlm.Tango(retention=0.2, neighbors=5)
    assert options.pruner(0.4) == tangovlm.Tango(retention=0.4, neighbors=5)


@pytest.mark.parametrize("method", sorted(name for name, cls in tangovlm.methods().items() if cls.stage == "pre-llm"))
def test_every_method_before_the_model_can_be_served(method: str) -> None:
    options = of({"method": method})
    assert options is not None
    assert options.pruner(0.3).name == method


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"retention": 7}, InputError, "must be a number in"),
        ({"retention": 0}, InputError, "must be a number in"),
        ({"ratio": 0.1}, InputError, "no option 'ratio': it takes retention"),
        ("0.1", InputError, "must be a mapping"),
        ({"saliency": "loud"}, InputError, "choose 'p-attn'"),
        ({"params": {"retention": 0.1}}, InputError, "without retention"),
        ({"params": 3}, InputError, "must be a mapping"),
        ({"method": "tanga"}, MethodError, "did you mean 'tango'"),
        ({"method": "fastv"}, MethodError, "inside the language model"),
        ({"method": "flexselect"}, MethodError, "method .flexselect. prunes inside the language model"),
        ({"method": "tango+fastv"}, MethodError, "inside the language model"),
        ({"params": {"exact": False}}, MethodError, "not known before encoding"),
        ({"params": {"neighbours": 3}}, MethodError, "did you mean 'neighbors'"),
        ({"positions": "packed"}, InputError, "choose 'contiguous' or 'original'"),
        ({"adaptive": True}, MethodError, "sizes a prompt before it encodes the video"),
    ],
)
def test_mistakes_are_told_at_the_start(given: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        of(given)


def test_a_mapping_comes_back_as_it_went_in() -> None:
    for given in ({"retention": 0.2}, {"retention": 0.1, "method": "fastvid", "params": {"exact": True}}):
        options = of(given)
        assert options is not None
        assert options.as_mapping() == given
        assert ServeOptions.from_mapping(options.as_mapping()) == options


def test_a_request_names_its_own_retention() -> None:
    options = ServeOptions(0.1)
    assert options.request_retention({}) == 0.1
    assert options.request_retention({"tango_retention": 0.25, "fps": 2}) == 0.25
    assert options.request_retention({"tango_retention": 1}) == 1.0
    assert without_ours({"tango_retention": 0.25, "fps": 2}) == {"fps": 2}


@pytest.mark.parametrize("retention", [7, 0, -0.1, "0.1", True, float("nan"), [0.1]])
def test_a_request_with_another_retention_is_refused(retention: object) -> None:
    with pytest.raises(InputError, match="tango_retention: retention must be a number"):
        ServeOptions().request_retention({"tango_retention": retention})


def test_a_request_with_an_unknown_option_is_refused() -> None:
    with pytest.raises(InputError, match="'tango_retenton': it takes tango_retention"):
        ServeOptions().request_retention({"tango_retenton": 0.2})


def test_adaptive_counts_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    tangovlm.methods()
    monkeypatch.setitem(registry._methods, LargeTokens.name, LargeTokens)
    assert of({"method": "large-tokens"}) is not None
    with pytest.raises(MethodError, match="method 'large-tokens' lets the content decide how many tokens are kept"):
        of({"method": "large-tokens", "params": {"exact": False, "floor": 0.5}})
    with pytest.raises(InputError, match="tango_adaptive lets the content decide how many tokens are kept"):
        ServeOptions().request_retention({"tango_adaptive": True})


def test_positions_are_those_of_the_options_the_method_and_the_model() -> None:
    llava, qwen = (
        registry.family_for(name)(None)
        for name in ("LlavaOnevisionForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")
    )

    class Original(LargeTokens):
        positions = "original"

    for positions, expected in ((None, False), ("contiguous", False), ("original", True)):
        assert ServeOptions(positions=positions).original_positions(llava) is expected
    own = ServeOptions()
    own.__dict__["_pruner"] = Original()
    assert own.original_positions(llava)
    assert all(ServeOptions(positions=positions).original_positions(qwen) for positions in (None, "original"))
    with pytest.raises(InputError, match=r"keeps M-RoPE positions: leave it out"):
        ServeOptions(positions="contiguous").original_positions(qwen)
