"""Streams of the embedded model, compared with `ask`, a reference without hooks and caches, and each other."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tangovlm
from tangovlm.errors import InputError, MethodError, ModelError, VideoError
from tangovlm.pipeline.embedded import BUILTIN_NOTE, FOREIGN_NOTE
from tangovlm.pipeline.load import VideoLLM
from tangovlm.streaming.segment import Segment
from tangovlm.streaming.stream import Stream
from tangovlm.tiny.clip import decoded_frames, write_demo
from tangovlm.tiny.synthetic.sampling import sample_clip
from tangovlm.video import Frames
from tests.support.checkpoints import write_clip as write_foreign

QUESTION = "What color is the bar?"


@pytest.fixture(scope="module")
def llm() -> VideoLLM:
    return tangovlm.load()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str]]]:
    path = tmp_path_factory.mktemp("demo") / "clip.mp4"
    return path, write_demo(path)


@pytest.fixture(scope="module")
def clip() -> Frames:
    return decoded_frames(sample_clip(np.random.default_rng(3)), 16)[0]


@pytest.fixture(scope="module")
def long() -> Tensor:
    """Five clips, one after the other."""
    return torch.cat([decoded_frames(sample_clip(np.random.default_rng(seed)), 16)[0].pixels for seed in range(5)])


def held(stream: Stream) -> list[Segment]:
    """What an answer at this moment is from."""
    from tangovlm.machine.stopwatch import Stopwatch

    return stream._holding.now(Stopwatch(stream.llm.family.device, ("encode", "prune")))


def reference(stream: Stream, question: str, new: int) -> list[int]:
    """The answer of the stock model to the tokens that are held, by whole forwards."""
    llm, prompt = stream.llm, stream._prompt
    before, after = prompt.around(question)
    rest = stream._holding.pruner.rest
    assert rest is not None
    embed = llm.model.get_input_embeddings()
    features = torch.cat([*(each.features for each in held(stream)), rest])
    embeds = torch.cat(
        [embed(torch.tensor(before, dtype=torch.long)), features, embed(torch.tensor(after, dtype=torch.long))]
    )[None]
    ends, answer = llm.model.generation_config.eos_token_id, list[int]()
    with torch.no_grad():
        for _ in range(new):
            answer.append(int(llm.model(inputs_embeds=embeds, use_cache=False).logits[0, -1].argmax()))
            embeds = torch.cat([embeds, embed(torch.tensor([[answer[-1]]]))], dim=1)
            if answer[-1] in (ends if isinstance(ends, list) else [ends]):
                break
    return answer


def texts(llm: VideoLLM, ids: list[int]) -> str:
    return str(llm.tokenizer.decode(ids, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("method", ["tango", "milonga", "divprune", "holitom"])
def test_one_chunk_is_answered_as_by_ask(llm: VideoLLM, clip: Frames, method: str) -> None:
    stream = tangovlm.stream(llm, method=method, chunk_frames=16)
    stream.add(clip.pixels, clip.timestamps_s)
    for question in (QUESTION, "What shape is red?"):
        asked = tangovlm.ask(clip, question, model=llm, method=method, positions="contiguous")
        answer = stream.ask(question)
        assert answer == asked
        assert (answer.tokens_before, answer.tokens_after) == (asked.tokens_before, asked.tokens_after) == (1024, 102)
        assert (answer.frames, answer.encoded_frames, answer.span_s) == (16, 16, (0.0, float(clip.timestamps_s[-1])))
        assert answer.method == method and answer.retention == 0.1 and answer.model == "tangovlm-tiny"


def test_unpruned_frames_are_those_of_the_stock_model(llm: VideoLLM, clip: Frames) -> None:
    stream = tangovlm.stream(llm, retention=1.0)
    stream.add(clip.pixels, clip.timestamps_s)
    answer = stream.ask(QUESTION)
    assert answer == tangovlm.ask(clip, QUESTION, model=llm, retention=1.0) and answer.tokens_after == 1024


@pytest.mark.parametrize("budget", [40, 200])
@pytest.mark.parametrize("count", [20, 48, 75])
def test_a_reference_without_hooks_and_caches(llm: VideoLLM, long: Tensor, budget: int, count: int) -> None:
    stream = tangovlm.stream(llm, method="milonga", max_tokens=budget, chunk_frames=16, fps=2)
    stream.add(long[:count])
    answer = stream.ask(QUESTION, max_new_tokens=6)
    assert answer == texts(llm, reference(stream, QUESTION, 6))
    assert answer.tokens_before == 64 * count and answer.tokens_after == min(budget, answer.tokens_after)
    assert answer.span_s == (0.0, (count - 1) / 2)


def test_it_does_not_matter_how_frames_arrive_or_when_somebody_asks(llm: VideoLLM, long: Tensor) -> None:
    options: dict[str, Any] = {"method": "milonga", "max_tokens": 100, "chunk_frames": 16}
    at_once, one_by_one, asked = (tangovlm.stream(llm, **options) for _ in range(3))
    at_once.add(long)
    for place, frame in enumerate(long):
        one_by_one.add(frame)
        asked.add(frame, float(place))
        if place % 7 == 3:
            asked.ask(QUESTION, max_new_tokens=2)
    assert at_once.frames == one_by_one.frames == asked.frames == 80 == asked.ask(QUESTION).encoded_frames
    for one, two, three in zip(at_once.segments, one_by_one.segments, asked.segments, strict=True):
        assert torch.equal(one.features, two.features) and torch.equal(one.frames, two.frames)
        assert torch.equal(one.frames, three.frames)
        torch.testing.assert_close(one.features, three.features, rtol=1e-4, atol=1e-4)
    assert at_once.ask(QUESTION) == one_by_one.ask(QUESTION) == asked.ask(QUESTION)


def test_what_did_not_change_is_not_read_again(llm: VideoLLM, long: Tensor) -> None:
    stream = tangovlm.stream(llm, method="milonga", chunk_frames=16)
    stream.add(long[:20])
    first = stream.ask(QUESTION)
    assert first.reused_tokens == 0
    again = stream.ask("How many circles are there?")
    text = len(stream._prompt.around(QUESTION)[0])
    assert again.reused_tokens == text + again.tokens_after + 1  # the newline after the video
    whole_chunk = sum(map(len, stream.segments))
    for stop in (30, 40):
        stream.add(long[stream.frames : stop])
        later = stream.ask(QUESTION, max_new_tokens=6)
        assert later.reused_tokens >= text + whole_chunk
        fresh = tangovlm.stream(llm, method="milonga", chunk_frames=16)
        fresh.add(long[:stop])
        assert later == fresh.ask(QUESTION, max_new_tokens=6) == texts(llm, reference(stream, QUESTION, 6))


def test_other_words_before_the_video_are_read(llm: VideoLLM, clip: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = tangovlm.stream(llm)
    stream.add(clip.pixels)
    expected = stream.ask(QUESTION)
    around = stream._prompt.around
    monkeypatch.setattr(stream._prompt, "around", lambda *args: ([5, 6, *around(*args)[0]], around(*args)[1]))
    assert stream.ask(QUESTION).reused_tokens == 0
    monkeypatch.undo()
    answer = stream.ask(QUESTION)
    assert answer == expected and answer.reused_tokens == 0


def test_unchanged_frames_are_not_encoded(llm: VideoLLM, clip: Frames) -> None:
    stream = tangovlm.stream(llm, encode="changed", chunk_frames=8)
    stream.add(clip.pixels[:1].expand(24, -1, -1, -1))
    answer = stream.ask(QUESTION, max_new_tokens=1)
    assert (answer.frames, answer.encoded_frames, answer.tokens_before) == (24, 3, 24 * 64)


def test_a_file(llm: VideoLLM, demo: tuple[Path, list[tuple[str, str]]]) -> None:
    path, questions = demo
    stream = tangovlm.stream(llm, method="milonga", retention=0.2, fps=2)
    seen: list[tuple[str, int, int]] = []
    stream.read(path, progress=lambda *each: seen.append(each))
    assert seen == [("decode", done, 16) for done in range(1, 17)]
    answers = [stream.ask(question) for question, _ in questions]
    right = sum(answer == expected for answer, (_, expected) in zip(answers, questions, strict=True))
    assert right >= len(questions) - 1
    assert BUILTIN_NOTE in answers[0].notes and answers[0].as_dict()["answer"] == answers[0]
    # Times go on.
    stream.read(path, start_s=1, end_s=3, fps=4)
    assert stream.frames == 24
    assert stream.ask(QUESTION).span_s == (0.0, 8.0 + 1.75)


def test_a_file_object_and_a_file_that_the_embedded_model_does_not_know(
    llm: VideoLLM, demo: tuple[Path, list[tuple[str, str]]], tmp_path: Path
) -> None:
    stream = tangovlm.stream(llm)
    with demo[0].open("rb") as file:
        stream.read(file)
    assert stream.frames == 8 and FOREIGN_NOTE not in stream.ask(QUESTION).notes
    foreign = tangovlm.stream(llm)
    with pytest.warns(UserWarning, match="cannot know what this video shows"):
        foreign.read(write_foreign(tmp_path / "clip.mp4"), fps=5)
    notes = foreign.ask(QUESTION).notes
    assert FOREIGN_NOTE in notes and BUILTIN_NOTE not in notes


def test_a_conversation(llm: VideoLLM, clip: Frames) -> None:
    stream = tangovlm.stream(llm, chunk_frames=16)
    stream.add(clip.pixels, clip.timestamps_s)
    history = [(QUESTION, "red")]
    encoded = llm.encode(clip, method="tango", positions="contiguous")
    assert stream.ask("Where is it?", history=history) == encoded.ask("Where is it?", history=history)
    assert any("cannot follow up" in note for note in stream.ask("Where is it?", history=history).notes)


def test_text_and_progress_while_it_answers(llm: VideoLLM, clip: Frames) -> None:
    stream, shown, steps = tangovlm.stream(llm), list[str](), list[tuple[str, int, int]]()
    stream.add(clip.pixels)
    answer = stream.ask(QUESTION, on_text=shown.append, progress=lambda *each: steps.append(each), max_new_tokens=8)
    assert shown[-1] == answer and steps[-1][0] == "generate"


def test_threads(llm: VideoLLM, long: Tensor) -> None:
    """Frames come in one thread while another asks, and a third uses the model."""
    stream, errors, answers = tangovlm.stream(llm, chunk_frames=8), list[BaseException](), list[str]()
    stream.add(long[:1])
    alone = tangovlm.ask(Frames(long[:8], torch.arange(8.0), 1.0, 8.0), QUESTION, model=llm)

    def run(work: Any) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    def ask() -> None:
        for _ in range(4):
            answers.append(tangovlm.ask(Frames(long[:8], torch.arange(8.0), 1.0, 8.0), QUESTION, model=llm))

    threads = [
        run(lambda: [stream.add(frame) for frame in long[1:40]]),
        run(lambda: [stream.ask(QUESTION, max_new_tokens=2) for _ in range(4)]),
        run(ask),
    ]
    for thread in threads:
        thread.join(120)
    assert not errors and answers == [alone] * 4
    other = tangovlm.stream(llm, chunk_frames=8)
    other.add(long[:40])
    assert stream.ask(QUESTION) == other.ask(QUESTION)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_frames_that_are_none(llm: VideoLLM, clip: Frames) -> None:
    stream = tangovlm.stream(llm)
    with pytest.raises(InputError, match="no frames yet"):
        stream.ask(QUESTION)
    for frames in (clip.pixels.float(), clip.pixels[0, 0], clip.pixels[:0], clip.pixels[:, :2]):
        with pytest.raises(InputError, match="must be uint8"):
            stream.add(frames)
    with pytest.raises(InputError, match="frames are ndarray"):
        stream.add(clip.pixels.numpy())  # type: ignore[arg-type]
    assert stream.frames == 0
    stream.add(clip.pixels[0], 5.0)
    with pytest.raises(InputError, match=r"frame 1 is 100 x 112 pixels, those before it are 112 x 112: resize"):
        stream.add(clip.pixels[1, :, :100])
    for time in (5.0, 4.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="the time of frame 1 is"):
            stream.add(clip.pixels[1], time)
    with pytest.raises(InputError, match="the time of frame 2 is 6 s: it must be after 6 s"):
        stream.add(clip.pixels[1:3], [6.0, 6.0])
    for times in ("soon", [1.0]):
        with pytest.raises(InputError, match="time"):
            stream.add(clip.pixels[1:3], times)  # type: ignore[arg-type]
    assert stream.frames == 1
    stream.add(clip.pixels[1:3])
    assert stream.ask(QUESTION, max_new_tokens=1).span_s == (5.0, 7.0)


def test_the_memory_of_a_frame_may_be_used_again(llm: VideoLLM, clip: Frames) -> None:
    buffer, reused, plain = torch.empty_like(clip.pixels[0]), tangovlm.stream(llm), tangovlm.stream(llm)
    for frame in clip.pixels:
        reused.add(buffer.copy_(frame))
        plain.add(frame)
    assert reused.ask(QUESTION) == plain.ask(QUESTION)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 10**6}, "max_tokens is 1000000, but the model's context has"),
        ({"half_life_s": -1}, "half_life_s is -1"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"chunk_frames": 0}, "chunk_frames"),
        ({"encode": "some"}, "encode is 'some'"),
        (
            {"method": "fastv", "retention": 0.5},
            "the method 'fastv' chooses tokens by the question or inside the model",
        ),
        ({"method": "tango+fastv"}, "chooses tokens by the question or inside the model"),
        ({"retention": 0}, "retention"),
    ],
)
def test_options_that_are_none(llm: VideoLLM, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        tangovlm.stream(llm, **options)
    assert "\n" not in str(caught.value)


def test_methods_that_are_none(llm: VideoLLM) -> None:
    with pytest.raises(MethodError, match="did you mean"):
        tangovlm.stream(llm, method="tengo")


def test_an_answer_that_exceeds_the_context(llm: VideoLLM, clip: Frames) -> None:
    limit = llm.family.decoder.config.max_position_embeddings
    stream = tangovlm.stream(llm, retention=1.0, max_tokens=limit - 1)
    stream.add(clip.pixels)
    with pytest.raises(InputError, match="exceed the model's context of .* make a stream with max_tokens of at most"):
        stream.ask(QUESTION, max_new_tokens=limit)


def test_a_model_that_was_changed(clip: Frames) -> None:
    llm = tangovlm.load()
    stream = tangovlm.stream(llm, chunk_frames=8)
    stream.add(clip.pixels)
    expected = stream.ask(QUESTION)
    with torch.no_grad():
        llm.model.get_input_embeddings().weight.mul_(1.5)
    with pytest.raises(InputError, match="were changed since frames were encoded: begin another stream"):
        stream.ask(QUESTION)
    with pytest.raises(InputError, match="were changed"):
        stream.add(clip.pixels)
    with torch.no_grad():
        llm.model.get_input_embeddings().weight.div_(1.5)
    fresh = tangovlm.stream(llm, chunk_frames=8)
    fresh.add(clip.pixels)
    assert fresh.ask(QUESTION) == expected


def test_a_model_that_is_attached(llm: VideoLLM, clip: Frames) -> None:
    stream = tangovlm.stream(llm)
    stream.add(clip.pixels)
    expected = stream.ask(QUESTION)
    with (
        tangovlm.attach(llm.model, tangovlm.Tango(retention=0.1)),
        pytest.raises(ModelError, match="already attached"),
    ):
        stream.ask(QUESTION)
    assert stream.ask(QUESTION) == expected


def test_a_failure_while_encoding_loses_nothing(llm: VideoLLM, clip: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = tangovlm.stream(llm, chunk_frames=8)
    stream.add(clip.pixels[:7])
    pruner, encode = stream._holding.pruner, stream._holding.pruner.encode

    def fail(*_: Any) -> Any:
        raise InputError("the device is out of memory")

    monkeypatch.setattr(pruner, "encode", fail)
    with pytest.raises(InputError, match="out of memory"):
        stream.add(clip.pixels[7])
    monkeypatch.setattr(pruner, "encode", encode)
    stream.add(clip.pixels[8:])
    assert stream.ask(QUESTION, max_new_tokens=1).tokens_before == 16 * 64


def test_settings_that_do_not_go_with_a_cache(clip: Frames) -> None:
    llm = tangovlm.load()
    llm.model.generation_config.use_cache = False
    stream = tangovlm.stream(llm)
    stream.add(clip.pixels)
    with pytest.raises(InputError, match="do not go with a continued prompt"):
        stream.ask(QUESTION)


def test_files_that_are_none(llm: VideoLLM, tmp_path: Path) -> None:
    stream = tangovlm.stream(llm)
    with pytest.raises(VideoError):
        stream.read(tmp_path / "none.mp4")
    with pytest.raises(InputError, match="stall_s is 0"):
        stream.follow(tmp_path / "none.mp4", stall_s=0)
    with pytest.raises(VideoError, match=r"none\.mp4"):
        stream.follow(tmp_path / "none.mp4", stall_s=0.1)
    assert stream.frames == 0
