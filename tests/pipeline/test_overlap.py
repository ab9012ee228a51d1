"""Encoding while decoding gives the same answers and the same errors."""

import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import tangovlm
from tangovlm.errors import InputError, MethodError, VideoError
from tangovlm.pipeline.answer import Answer
from tangovlm.pipeline.load import VideoLLM
from tangovlm.video.prefetch import FramePrefetcher, FramesChangedError
from tests.support.checkpoints import write_checkpoint, write_clip
from tests.support.tiny_models import state_of

QUESTION = "w11 w12 w13"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=20)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder)
    made = tangovlm.load(folder, device="cpu")
    ask(made, write_clip(folder / "clip.mp4"))
    return made


@pytest.fixture(autouse=True)
def everything_restored(llm: VideoLLM) -> Any:
    threads, before = threading.active_count(), state_of(llm.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
    assert threading.active_count() == threads
    assert state_of(llm.model) == before


@pytest.fixture
def tower_calls(llm: VideoLLM) -> Any:
    """Number of frames in each call of the vision encoder."""
    seen: list[int] = []
    hook = llm.model.model.vision_tower.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    yield seen
    hook.remove()


def ask(llm: VideoLLM, clip: Any, **options: Any) -> Answer:
    given: dict[str, Any] = {"frames": 10, "retention": 0.3, "max_new_tokens": 4, "record": True}
    return tangovlm.ask(clip, QUESTION, model=llm, **given | options)


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ({}, [5, 5]),
        ({"chunk_frames": 3}, [3, 3, 2, 2]),
        ({"chunk_frames": 9}, [5, 5]),
        ({"chunk_frames": 10}, [10]),
        ({"frames": 6}, [6]),
        ({"frames": 99}, [7, 7, 6]),
        ({"frames": 20, "chunk_frames": 10}, [10, 10]),
        ({"method": "topk+fastv", "retention": 0.5}, [5, 5]),
        ({"frames": None, "fps": 5, "start_s": 1, "end_s": 3}, [5, 5]),
    ],
)
def test_the_same_answer(
    llm: VideoLLM, clip: Path, options: dict[str, Any], calls: list[int], tower_calls: list[int]
) -> None:
    got = ask(llm, clip, overlap=True, **options)
    assert tower_calls == calls
    wanted = ask(llm, clip, overlap=False, **options)
    assert got == wanted
    assert got.notes == wanted.notes
    assert torch.equal(got.frames.pixels, wanted.frames.pixels)
    assert torch.equal(got.frames.timestamps_s, wanted.frames.timestamps_s)
    assert got.video is not None and wanted.video is not None
    assert torch.equal(got.video.selection.indices, wanted.video.selection.indices)
    torch.testing.assert_close(got.video.selection.features, wanted.video.selection.features)
    assert list(got.timings_ms) == list(wanted.timings_ms)
    assert all(value > 0 for value in got.timings_ms.values())


def test_frames_of_another_size_than_the_model_needs(
    llm: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(llm.family.prompt), "frame_size", lambda *_: (40, 50))
    got, wanted = ask(llm, clip, overlap=True), ask(llm, clip, overlap=False)
    assert got.frames.pixels.shape[-2:] == (40, 50)
    assert got == wanted


def test_only_on_request_and_where_it_helps(
    llm: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch, tower_calls: list[int]
) -> None:
    frames = ask(llm, clip).frames
    monkeypatch.setattr("tangovlm.pipeline.ask.streamed_source", None)
    ask(llm, clip)
    ask(llm, clip, overlap=True, retention=1.0)
    ask(llm, clip, overlap=True, method="fastv", retention=0.8)
    ask(llm, frames, overlap=True)
    monkeypatch.setattr(type(llm.family.prompt), "streams", False)
    ask(llm, clip, overlap=True)
    assert tower_calls == [10] * 6


def test_progress(llm: VideoLLM, clip: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    ask(llm, clip, overlap=True, progress=lambda *call: calls.append(call))
    decoding = [("decode", 0, 10), ("decode", 5, 10), ("decode", 10, 10)]
    assert calls[:5] == [*decoding, ("encode", 0, 1), ("encode", 1, 1)]
    assert {stage for stage, _, _ in calls[5:]} == {"generate"}


def test_a_damaged_file_is_decoded_again(llm: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = FramePrefetcher.take

    def damaged(self: FramePrefetcher, start: int, stop: int) -> torch.Tensor:
        if stop == 10:
            raise FramesChangedError
        return take(self, start, stop)

    monkeypatch.setattr(FramePrefetcher, "take", damaged)
    assert ask(llm, clip, overlap=True) == ask(llm, clip, overlap=False)


def test_mistakes(llm: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VideoError, match="nowhere"):
        ask(llm, "nowhere.mp4", overlap=True)
    with pytest.raises(VideoError, match="0"):
        ask(llm, clip, frames=0, overlap=True)
    with pytest.raises(InputError, match="chunk_frames is 0"):
        ask(llm, clip, chunk_frames=0, overlap=True)
    with pytest.raises(MethodError, match="needs a method such as"):
        ask(llm, clip, method=tangovlm.Tango, overlap=True)

    def fail(_module: Any, _args: Any) -> None:
        raise ZeroDivisionError

    hook = llm.model.model.multi_modal_projector.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        ask(llm, clip, overlap=True)
    hook.remove()
