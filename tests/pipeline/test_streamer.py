"""The text of an answer while it is generated: each text is of more tokens, and the last is the answer."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

import tangovlm
from tangovlm.errors import InputError
from tangovlm.pipeline.load import VideoLLM
from tangovlm.pipeline.streamer import TokenStreamer
from tests.support.checkpoints import write_checkpoint, write_clip

QUESTION, NEW = "w11 w12 w13", 5
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class StopError(Exception):
    """Raised by a callback."""


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    path = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(path)
    return tangovlm.load(path, device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.mark.parametrize("method", ["tango", "fastv"])
def test_the_last_text_is_the_answer(llm: VideoLLM, clip: Path, method: str) -> None:
    pruner = tangovlm.method(method, retention=0.75)
    silent = tangovlm.ask(clip, QUESTION, model=llm, method=pruner, max_new_tokens=NEW)
    encoded = llm.encode(clip, method=pruner)
    for ask in (lambda **options: tangovlm.ask(clip, QUESTION, model=llm, method=pruner, **options),
                lambda **options: encoded.ask(QUESTION, **options)):  # fmt: skip
        texts: list[str] = []
        answer = ask(max_new_tokens=NEW, on_text=texts.append)
        assert answer == silent
        assert texts[-1] == answer
        assert len(texts) == NEW == len(set(texts))
        assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
        assert answer.tokens_after == silent.tokens_after


def test_an_exception_ends_the_call_and_leaves_the_model_usable(llm: VideoLLM, clip: Path) -> None:
    encoded = llm.encode(clip)
    expected = encoded.ask(QUESTION, max_new_tokens=NEW)
    seen: list[str] = []

    def stop(text: str) -> None:
        seen.append(text)
        raise StopError

    with pytest.raises(StopError):
        encoded.ask(QUESTION, max_new_tokens=NEW, on_text=stop)
    with pytest.raises(StopError):
        tangovlm.ask(clip, QUESTION, model=llm, max_new_tokens=NEW, on_text=stop)
    assert len(seen) == 2
    assert encoded.ask(QUESTION, max_new_tokens=NEW) == expected
    assert tangovlm.ask(clip, QUESTION, model=llm, max_new_tokens=NEW) == expected


def test_several_questions_have_no_text_so_far(llm: VideoLLM, clip: Path) -> None:
    with pytest.raises(InputError, match="^on_text is given with several questions"):
        tangovlm.ask(clip, [QUESTION, QUESTION], model=llm, on_text=print)


def test_an_incomplete_character_is_held_back() -> None:
    """A character of three tokens, then a space that the text of an answer does not end with."""
    words = {1: b"a", 2: b"\xe2", 3: b"\x82", 4: b"\xac", 5: b" "}
    texts: list[str] = []

    def text_of(ids: list[int]) -> str:
        return b"".join(words[each] for each in ids).decode(errors="replace").strip()

    progress: list[tuple[str, int, int]] = []
    streamer = TokenStreamer(lambda *call: progress.append(call), 9, True, texts.append, text_of)
    streamer.put(torch.tensor([[7, 7, 7]]))
    for token in (1, 2, 3, 4, 5):
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert texts == ["a", "a€"]
    assert progress == [("encode", 1, 1), *(("generate", done, 9) for done in (0, 1, 2, 3, 4, 5, 9))]


def test_an_answer_that_ends_within_a_character_is_complete() -> None:
    texts: list[str] = []
    streamer = TokenStreamer(lambda *_: None, 9, True, texts.append, lambda ids: "b\ufffd" if ids else "")
    streamer.put(torch.tensor([[7]]))
    streamer.put(torch.tensor([2]))
    assert texts == []
    streamer.end()
    assert texts == ["b\ufffd"]
