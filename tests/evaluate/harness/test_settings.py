"""What a harness says of the model and the method, read or refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

import tangovlm
from tangovlm.errors import InputError, MethodError, TangoError
from tangovlm.evaluate.harness.settings import Settings
from tangovlm.methods.build import Pair


def read(**given: Any) -> Settings:
    return Settings.read(**{"pretrained": "tangovlm-tiny"} | given)


def test_text_reads_as_numbers_and_flags() -> None:
    words = {
        "retention": "0.25",
        "frames": "8",
        "fps": "2",
        "batch_size": "4",
        "exact": "False",
        "context_ratio": "0.3",
    }
    numbers = {"retention": 0.25, "frames": 8, "fps": 2, "batch_size": 4, "exact": False, "context_ratio": 0.3}
    assert read(**words) == read(**numbers)
    assert read(**words).pruner() == tangovlm.Tango(retention=0.25, exact=False, context_ratio=0.3)


@pytest.mark.parametrize("name", ["tangovlm-tiny", "embedded"])
def test_the_embedded_model_has_names(name: str) -> None:
    assert read(pretrained=name).checkpoint is None
    assert read(pretrained="some/folder").checkpoint == "some/folder"
    assert read(pretrained=7).checkpoint == "7"


def test_a_method_inside_the_model_makes_a_pair() -> None:
    pair = read(in_llm="fastv", retention=0.2, context_ratio=0.3).pruner()
    assert isinstance(pair, Pair) and (pair.name, pair.retention) == ("tango+fastv", 0.2)
    assert pair.before.context_ratio == 0.3
    assert read(method="tango+fastv", retention=0.2).pruner().name == "tango+fastv"


def test_the_release_has_two_names() -> None:
    release = tangovlm.Tango.release(retention=0.1)
    assert read(release=True).pruner() == read(method="tango-release").pruner() == release
    assert read(release="False").pruner() == tangovlm.Tango()
    assert read(release=True, in_llm="fastv").pruner().before == release


def test_everything_is_kept_at_one() -> None:
    for method in ("tango", "tango-release", "holitom", "fastv", "tango+fastv"):
        assert read(method=method, retention=1.0).pruner().retention == 1


def test_options_of_the_engine_have_a_prefix() -> None:
    settings = read(backend="vllm", vllm_tensor_parallel_size=8, vllm_enforce_eager=True, vllm_none_of_it=False)
    assert settings.vllm == ("--tensor-parallel-size", "8", "--enforce-eager")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pretrained": ""}, "pretrained is missing"),
        ({"method": "tangi"}, "did you mean 'tango'"),
        ({"method": 3}, "unknown method '3'"),
        ({"method": "tango", "contxt_ratio": 0.4}, "did you mean 'context_ratio'"),
        ({"retension": 0.4}, "did you mean 'retention'"),
        ({"method": "tango+fastv", "neighbors": 3}, "takes retention only"),
        ({"method": "tango+fastv", "in_llm": "fastv"}, "leave one out"),
        ({"in_llm": "tango"}, "needs a method inside the model"),
        ({"in_llm": "fastw"}, "unknown method 'fastw'"),
        ({"retention": "ten"}, "retention must be a number"),
        ({"retention": 0}, "retention must be a number"),
        ({"retention": True}, "retention must be a number"),
        ({"frames": 0}, "frames is 0"),
        ({"frames": 1.5}, "frames is 1.5"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": "inf"}, "fps is 'inf'"),
        ({"batch_size": "auto"}, "batch_size is 'auto'"),
        ({"max_frame_pixels": -1}, "max_frame_pixels is -1"),
        ({"positions": "absolute"}, "'contiguous' or 'original'"),
        ({"adaptive": "maybe"}, "adaptive is 'maybe': give True or False"),
        ({"adaptive": True}, "'tango' keeps a fixed number of tokens"),
        ({"adaptive": True, "release": True}, "keeps a fixed number"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"backend": "sglang"}, "'transformers' or 'vllm'"),
        ({"device": "cpu", "device_map": "auto"}, "leave one of them out"),
        ({"release": "yes"}, "release is 'yes'"),
        ({"release": True, "method": "holitom"}, "belongs to the method tango"),
        ({"vllm_seed": 1}, "--seed is vLLM's"),
        ({"backend": "vllm", "in_llm": "fastv"}, "does not take in_llm"),
        ({"backend": "vllm", "fps": 2}, "does not take fps"),
    ],
)
def test_mistakes_are_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TangoError) as caught:
        read(**given)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value, (InputError, MethodError))


def test_adaptive_counts_alone_and_in_a_pair() -> None:
    for more in ({}, {"in_llm": "fastv"}):
        assert read(method="milonga", adaptive="True", **more).pruner().adaptive
        assert not read(method="milonga", **more).pruner().adaptive
    assert read(backend="vllm", positions="original").positions == "original"


def test_settings_are_what_records_hold() -> None:
    held = read(vllm_seed=1, backend="vllm", context_ratio=0.3).as_dict()
    assert held["params"] == {"context_ratio": 0.3} and held["vllm"] == ["--seed", "1"]
    assert Settings(**held | {"vllm": tuple(held["vllm"])}) == read(vllm_seed=1, backend="vllm", context_ratio=0.3)
