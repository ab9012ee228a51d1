"""Answers to a harness are those of `tangovlm.ask`, one by one, however they are gathered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tangovlm
from tangovlm.errors import InputError, ModelError, VideoError
from tangovlm.evaluate.harness.answerer import Answerer, load_backend, render_prompt
from tangovlm.evaluate.harness.batches import plan_batches
from tangovlm.evaluate.harness.miniature import Item, items, write_videos
from tangovlm.evaluate.harness.requests import STAGES, Completion, GenerationOptions, Request
from tangovlm.evaluate.harness.settings import Settings
from tangovlm.pipeline.load import VideoLLM, load
from tangovlm.video import decode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SHORT = GenerationOptions(8)


@pytest.fixture(scope="module")
def llm() -> VideoLLM:
    return load()


@pytest.fixture(scope="module")
def asked() -> list[Item]:
    return items(8, lengths=(8,))


@pytest.fixture(scope="module")
def clips(asked: list[Item], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_videos(asked, tmp_path_factory.mktemp("clips"))


def requests(asked: Sequence[Item], clips: dict[str, Path], options: GenerationOptions = SHORT) -> list[Request]:
    return [Request(item.text, [clips[item.clip]], options=options) for item in asked]


@pytest.mark.parametrize(
    "given",
    [
        {"retention": 1.0},
        {"retention": 0.2},
        {"retention": 0.2, "batch_size": 2},
        {"method": "tango-release", "retention": 0.2},
        {"in_llm": "fastv", "retention": 0.6},
        {"method": "fastv", "retention": 0.6, "frames": 5},
    ],
    ids=str,
)
def test_answers_are_those_of_ask(
    llm: VideoLLM, asked: list[Item], clips: dict[str, Path], given: dict[str, Any]
) -> None:
    answerer = Answerer(Settings("tangovlm-tiny", **given), llm)
    reported: dict[int, Completion] = {}
    found = answerer.answer(requests(asked, clips), reported.__setitem__)
    assert [reported[place] for place in range(len(asked))] == found
    for item, completion in zip(asked, found, strict=True):
        own = tangovlm.ask(
            clips[item.clip],
            item.text,
            model=llm,
            method=answerer.pruner,
            max_new_tokens=8,
            frames=given.get("frames"),
        )
        assert completion.text == own
        assert (completion.tokens_before, completion.tokens_after) == (own.tokens_before, own.tokens_after)
        # The newline behind the video stays.
        assert (completion.newlines_before, completion.newlines_after) == (1, 1)
        assert completion.read_tokens == completion.prompt_tokens - own.tokens_before + own.tokens_after
        assert completion.tokens_per_layer == own.tokens_per_layer
        assert completion.notes == own.notes
        assert completion.frames == len(own.frames.pixels)
        assert completion.times_ms.keys() == set(STAGES) and completion.peak_bytes > 10**6
    first = len({item.clip for item in asked})
    assert first < len(asked)
    assert sum(not completion.shared for completion in found) == first
    for completion in found:
        assert all((completion.times_ms[stage] == 0) == completion.shared for stage in ("decode", "encode"))
        assert completion.times_ms["prefill"] > 0 and completion.times_ms["decode_tokens"] > 0


def test_a_video_is_remembered_from_one_call_to_the_next(
    llm: VideoLLM, asked: list[Item], clips: dict[str, Path]
) -> None:
    answerer = Answerer(Settings("tangovlm-tiny", retention=0.3), llm)
    path = clips[asked[0].clip]
    one, two = (answerer.answer([Request(asked[0].text, [path], options=SHORT)])[0] for _ in range(2))
    assert (one.shared, two.shared) == (False, True) and one.text == two.text
    other = clips[asked[-1].clip]
    path.touch()
    assert not answerer.answer([Request(asked[0].text, [path], options=SHORT)])[0].shared
    assert not answerer.answer([Request(asked[0].text, [other], options=SHORT)])[0].shared
    frames = decode(path, 8)
    assert not answerer.answer([Request("What shape is it?", [frames], options=SHORT)])[0].shared
    assert answerer.answer([Request("What color is it?", [frames], options=SHORT)])[0].shared


def test_batches_hold_different_videos() -> None:
    videos = "aababccd"
    asked = [Request(f"question {number}", [f"{name}.mp4"]) for number, name in enumerate(videos)]
    found = list(plan_batches(asked, 2))
    assert sorted(place for places in found for place in places) == list(range(len(videos)))
    for places in found:
        names = [videos[place] for place in places]
        assert len(names) == len(set(names)) <= 2
    # The same videos meet as long as they have questions.
    assert [[videos[place] for place in places] for places in found] == [["a"], ["a"], ["a"], *2 * [["b", "c"]], ["d"]]
    assert [len(places) for places in plan_batches(asked, 1)] == [1] * len(videos)


def test_frames_a_second(llm: VideoLLM, asked: list[Item], clips: dict[str, Path]) -> None:
    (request,) = requests(asked[:1], clips)
    seconds = asked[0].seconds
    for given, frames in (
        ({"fps": 2.0}, 2 * seconds),
        ({"fps": 2.0, "frames": 3}, 3),
        ({"fps": 0.01}, 1),
        ({"frames": 6}, 6),
    ):
        answerer = Answerer(Settings("tangovlm-tiny", retention=1.0, **given), llm)
        assert answerer.answer([request])[0].frames == frames


def test_an_answer_ends_where_the_task_says(llm: VideoLLM, asked: list[Item], clips: dict[str, Path]) -> None:
    answerer = Answerer(Settings("tangovlm-tiny", retention=1.0), llm)
    (request,) = requests(asked[:1], clips)
    whole = answerer.answer([request])[0]
    (cut,) = answerer.answer(requests(asked[:1], clips, GenerationOptions(8, until=(whole.text[1:3],))))
    assert cut.text == whole.text[:1] and cut.output_tokens <= whole.output_tokens
    assert answerer.answer(requests(asked[:1], clips, GenerationOptions(8, num_beams=2)))[0].text
    assert answerer.answer(requests(asked[:1], clips, GenerationOptions(1)))[0].output_tokens == 1


def test_a_conversation_and_a_text_without_video(llm: VideoLLM, asked: list[Item], clips: dict[str, Path]) -> None:
    answerer = Answerer(Settings("tangovlm-tiny", retention=0.3), llm)
    video = clips[asked[0].clip]
    turns = [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": asked[0].text}]}]
    plain = Request(asked[0].text, [video], options=SHORT)
    assert render_prompt(llm, Request(conversation=turns)) == render_prompt(llm, plain)
    spoken, alone, wordless = answerer.answer(
        [Request(conversation=turns, options=SHORT), plain, Request("What color is it?", options=SHORT)]
    )
    assert spoken.text == alone.text
    assert (wordless.tokens_before, wordless.frames, wordless.shared) == (0, 0, False)


def test_a_model_that_is_spread(llm: VideoLLM, asked: list[Item], clips: dict[str, Path]) -> None:
    asked_once = requests(asked[:1], clips)
    spread = Answerer(Settings("tangovlm-tiny", retention=0.3, device_map="cpu", dtype="float32"))
    whole = Answerer(Settings("tangovlm-tiny", retention=0.3), llm)
    assert spread.answer(asked_once)[0].text == whole.answer(asked_once)[0].text
    with pytest.raises(InputError, match="both a device and a device_map"):
        load(device="cpu", device_map="auto")


def test_several_videos_in_a_prompt(llm: VideoLLM, asked: list[Item], clips: dict[str, Path]) -> None:
    answerer = Answerer(Settings("tangovlm-tiny", retention=0.3, frames=4), llm)
    paths = sorted(set(clips.values()))[:2]
    two, one = answerer.answer([Request("What color is it?", paths), Request("What color is it?", paths[:1])])
    assert (two.frames, two.tokens_before) == (2 * one.frames, 2 * one.tokens_before)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (Request("Why?", ["missing.mp4"]), VideoError, "missing.mp4"),
        (Request("Why? <video>"), InputError, "stands for visual tokens"),
        (Request(conversation=[{"role": "user", "content": [{"type": "image"}]}]), InputError, "type 'image'"),
        (Request(conversation=[]), InputError, "a list of turns"),
    ],
)
def test_mistakes_are_one_line(llm: VideoLLM, request_: Request, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        Answerer(Settings("tangovlm-tiny"), llm).answer([request_])
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_the_model_is_refused_at_once(llm: VideoLLM) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        Answerer(Settings("./nowhere"))
    with pytest.raises(InputError, match="max_frame_pixels"):
        Answerer(Settings("tangovlm-tiny", max_frame_pixels=10**4), llm)
    with pytest.raises(InputError, match="out of reach"):
        Answerer(Settings("tangovlm-tiny", method="fastv", retention=0.01), llm)


def test_vllm_is_another_backend(monkeypatch: pytest.MonkeyPatch, asked: list[Item], clips: dict[str, Path]) -> None:
    from tangovlm.batch.engine import Outcome, failure
    from tangovlm.batch.settings import Settings as EngineSettings
    from tangovlm.evaluate.harness import vllm_answerer

    built: list[EngineSettings] = []

    class Engine:
        def answer(self, tasks: Any) -> Any:
            for task in reversed(list(tasks)):
                if "missing" in task.path:
                    yield failure(task, VideoError("missing"))
                    continue
                fields = {"answer": f"{task.question}: no", "tokens_before": 100, "tokens_after": 10, "frames": 8}
                yield Outcome(task, fields)

    monkeypatch.setattr(vllm_answerer, "check_settings", built.append)
    monkeypatch.setattr(EngineSettings, "build", lambda _settings: Engine())
    backend = load_backend(
        Settings.read(pretrained="tangovlm-tiny", backend="vllm", neighbors=3, vllm_seed=1, frames=8)
    )
    (engine,) = built
    assert (engine.model, engine.params, engine.extra, engine.frames) == (None, {"neighbors": 3}, ("--seed", "1"), 8)
    one = [Request(item.text, [str(clips[item.clip])], options=GenerationOptions(8, until=(": n",))) for item in asked]
    found = backend.answer(one)
    assert [completion.text for completion in found] == [item.text for item in asked]
    assert {completion.read_tokens for completion in found} == {None}
    for wrong, message in (
        (Request("Why?", ["missing.mp4"]), "missing"),
        (Request("Why?"), "one video file and one text"),
        (Request("Why?", ["a.mp4"], options=GenerationOptions(8, num_beams=2)), "greedily"),
    ):
        with pytest.raises(InputError, match=message):
            backend.answer([wrong])
    with pytest.raises(tangovlm.TangoError, match="does not take method"):
        load_backend(Settings("tangovlm-tiny", method="tango-release", backend="vllm"))
