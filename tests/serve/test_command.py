"""The command line of vLLM, as it is put together."""

import json
from typing import Any

import pytest

from tangovlm.errors import InputError, TangoError, VideoError
from tangovlm.pipeline.load import BUILTIN
from tangovlm.serve.command import engine_options, has_option, serve_arguments, split_model
from tangovlm.serve.options import ServeOptions

MODEL = "llava-hf/llava-onevision-qwen2-7b-ov-hf"


def overrides(command: list[str]) -> Any:
    """The one `--hf-overrides` of a command."""
    assert command.count("--hf-overrides") == 1
    return json.loads(command[command.index("--hf-overrides") + 1])


def test_a_plain_command() -> None:
    command = serve_arguments(MODEL, ServeOptions(retention=0.1))
    assert command == ["vllm", "serve", MODEL, "--hf-overrides", '{"tango": {"retention": 0.1}}']


def test_pruning_is_on_where_nothing_is_said() -> None:
    assert overrides(serve_arguments(MODEL, None)) == {"tango": {"retention": 0.1}}


def test_all_that_the_plug_in_takes_comes_back_as_it_was() -> None:
    given = ServeOptions(0.2, "holitom", {"neighbors": 3}, "attn", "google/siglip-so400m-patch14-384")
    assert ServeOptions.from_mapping(overrides(serve_arguments(MODEL, given))["tango"]) == given


def test_options_of_vllm_are_handed_through_in_order() -> None:
    extra = ["--port", "8001", "-tp", "2", "--enable-lora", "--lora-modules", "a=b"]
    assert serve_arguments(MODEL, None, extra)[5:] == extra


@pytest.mark.parametrize("form", [["--hf-overrides", "{}"], ["--hf-overrides={}"], ["--hf_overrides", "{}"]])
def test_overrides_of_the_user_are_merged(form: list[str]) -> None:
    own = [word.replace("{}", '{"max_position_embeddings": 4096}') for word in form]
    command = serve_arguments(MODEL, ServeOptions(retention=0.5), ["--port", "1", *own, "--seed", "3"])
    assert overrides(command) == {"max_position_embeddings": 4096, "tango": {"retention": 0.5}}
    assert command[-4:] == ["--port", "1", "--seed", "3"]


def test_pruning_of_the_user_is_left_as_it_is() -> None:
    own = {"retention": 0.3, "method": "uniform"}
    assert overrides(serve_arguments(MODEL, None, ["--hf-overrides", json.dumps({"tango": own})])) == {"tango": own}


@pytest.mark.parametrize(
    ("options", "extra", "words"),
    [
        (ServeOptions(), ["--hf-overrides", '{"tango": {"retention": 0.2}}'], ("tango", "leave one")),
        (None, ["--hf-overrides", '{"tango": {"retention": 7}}'], ("retention", "7")),
        (None, ["--hf-overrides", '{"tango": {"retentoin": 0.5}}'], ("retentoin", "retention")),
        (None, ["--hf-overrides", "{"], ("--hf-overrides", "JSON")),
        (None, ["--hf-overrides", "[]"], ("--hf-overrides", "JSON")),
        (None, ["--hf-overrides"], ("--hf-overrides", "JSON")),
        (None, ["--hf-overrides", "{}", "--hf-overrides={}"], ("twice",)),
        (None, ["--hf-overrides.tango.retention", "0.2"], ("--hf-overrides", "JSON object")),
    ],
)
def test_what_does_not_go_together(options: ServeOptions | None, extra: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises(TangoError) as caught:
        serve_arguments(MODEL, options, extra)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_the_embedded_model_keeps_its_number_format_and_gets_a_name() -> None:
    command = serve_arguments(None, None, ["--port", "1"])
    assert command[2] == str(BUILTIN)
    assert command[5:] == ["--dtype", "float32", "--served-model-name", "tangovlm-tiny", "--port", "1"]


def test_the_user_knows_better_about_the_embedded_model() -> None:
    own = ["--dtype=bfloat16", "--served_model_name", "mine"]
    assert serve_arguments(None, None, own)[5:] == own


def test_frames_go_to_the_loader_of_videos() -> None:
    command = serve_arguments(MODEL, None, frames=8)
    assert json.loads(command[command.index("--media-io-kwargs") + 1]) == {
        "video": {"num_frames": 8, "min_frames": 8, "max_frames": 8}
    }
    with pytest.raises(InputError, match="--media-io-kwargs"):
        serve_arguments(MODEL, None, ["--media-io-kwargs", "{}"], frames=8)


def test_a_rate_goes_to_the_loader_of_videos() -> None:
    command = serve_arguments(MODEL, None, fps=0.5)
    assert json.loads(command[command.index("--media-io-kwargs") + 1]) == {
        "video": {"fps": 0.5, "num_frames": 768, "min_frames": 2, "max_frames": 768}
    }
    with pytest.raises(InputError, match="--fps and --media-io-kwargs"):
        serve_arguments(MODEL, None, ["--media-io-kwargs", "{}"], fps=1, max_frames=4)
    with pytest.raises(VideoError, match="frames and fps are both given"):
        serve_arguments(MODEL, None, frames=8, fps=1)


def test_an_engine_gets_the_same_without_the_server() -> None:
    assert engine_options(MODEL, ServeOptions(0.2), ["--seed", "1"]) == serve_arguments(
        MODEL, ServeOptions(0.2), ["--seed", "1"]
    )[3:]  # fmt: skip


def test_options_are_found_by_any_spelling() -> None:
    assert has_option(["--max_model_len=5"], "--max-model-len")
    assert has_option(["-tp", "2"], "-tp")
    assert not has_option(["a=--dtype", "max-model-len"], "--dtype", "--max-model-len")


@pytest.mark.parametrize(
    ("words", "model", "rest"),
    [
        ([], None, []),
        ([MODEL, "--port", "1"], MODEL, ["--port", "1"]),
        (["--model", MODEL, "--port", "1"], MODEL, ["--port", "1"]),
        (["--port", "1", f"--model={MODEL}"], MODEL, ["--port", "1"]),
        (["--port", "1", "-tp", "2", "--seed", "-1", "--enforce-eager"], None, None),
        (["--served-model-name", "a", "b", "--port", "1"], None, None),
        ([MODEL, "--middleware", "a", "b"], MODEL, ["--middleware", "a", "b"]),
    ],
)
def test_the_model_and_the_rest(words: list[str], model: str | None, rest: list[str] | None) -> None:
    assert split_model(words) == (model, words if rest is None else rest)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([""], "MODEL is empty"),
        ([" ", "--port", "1"], "MODEL is empty"),
        (["--model", ""], "MODEL is empty"),
        (["--port", "1", "--model"], "MODEL is empty"),
        ([MODEL, "--model", "b"], "MODEL is given twice"),
        (["--model", "a", "--model=b"], "MODEL is given twice"),
        (["--port", "8000", MODEL], f"{MODEL} .*MODEL comes first"),
        (["--port=8000", MODEL], f"{MODEL} .*MODEL comes first"),
        (["--seed", "-1", MODEL], f"{MODEL} .*MODEL comes first"),
    ],
)
def test_models_that_cannot_be_meant(words: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        split_model(words)
