"""Several threads share an attached model, for every family: each gets the answer that it would get alone."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

import tangovlm
from tangovlm.errors import ModelError
from tangovlm.registry import family_for
from tangovlm.selfcheck.twins import twins
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import PromptParts, RandomWords, Video
from tangovlm.selfcheck.twins.llava_onevision import LlavaOnevisionTwin
from tangovlm.video import Frames
from tests.support.hosts import first_of_each_family

NEW, PATIENCE_S = 4, 60
ROWS: list[PromptParts] = [(RandomWords(3 + i, 1 + i), Video(4, 20 + i), RandomWords(5, 3 + i)) for i in range(3)]


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    """Switch between threads often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(scope="module", params=first_of_each_family())
def host(request: pytest.FixtureRequest) -> Twin:
    return twins()[request.param]()


def at_once(works: list[Callable[[], Any]]) -> list[Any]:
    """The results of functions in threads of their own; the first error is raised."""
    start, found = threading.Barrier(len(works)), [None] * len(works)

    def work(number: int) -> None:
        start.wait(PATIENCE_S)
        try:
            with torch.no_grad():
                found[number] = works[number]()
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    for each in found:
        if isinstance(each, Exception):
            raise each
    return found


def answer(host: Twin, row: PromptParts, new: int = NEW) -> list[int]:
    inputs = host.inputs([row])
    output = host.model.generate(**inputs, max_new_tokens=new, do_sample=False)
    return output[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", ["norms", "tango", "fastv"])
def test_generate_in_three_threads(host: Twin, method: str) -> None:
    pruner = Norms(0.4) if method == "norms" else tangovlm.method(method, retention=0.5)
    family = family_for(host.model)
    if method == "fastv" and "pruning inside" not in family.tested:
        pytest.skip(f"{host.family} does not claim pruning inside")
    with tangovlm.attach(host.model, pruner) as session:
        alone = [answer(host, row) for row in ROWS]
        before = len(session.report.videos)
        if method == "norms":
            assert alone == [host.reference(row, pruner, NEW)[0] for row in ROWS]
        for _ in range(2):
            assert at_once([lambda row=row: answer(host, row) for row in ROWS]) == alone
        report = session.report
    assert len(report.videos) == before + 6
    assert len({(video.tokens_before, video.tokens_after) for video in report.videos}) == 1


def test_a_video_beside_text(host: Twin) -> None:
    """One thread reads videos, another text only, a third calls the model instead of `generate`."""
    pruner, text = Norms(0.4), (RandomWords(6, 7),)
    wanted = [host.reference(ROWS[0], pruner, NEW)[0], host.reference(text, None, NEW)[0]]

    def by_hand() -> list[int]:
        logits = host.model(**host.inputs([ROWS[0]])).logits
        return [int(logits[0, -1].argmax())]

    with tangovlm.attach(host.model, pruner):
        found = at_once([lambda: answer(host, ROWS[0]), lambda: answer(host, text), by_hand])
    assert found == [*wanted, wanted[0][:1]]


class PausingStreamer(BaseStreamer):  # type: ignore[misc]
    """Pauses after the first token of an answer until it is allowed to continue."""

    def __init__(self) -> None:
        self.started, self.may_continue, self._tokens = threading.Event(), threading.Event(), 0

    def put(self, _value: Any) -> None:
        self._tokens += 1
        if self._tokens == 2:
            self.started.set()
            assert self.may_continue.wait(PATIENCE_S)

    def end(self) -> None: ...


def test_a_context_left_while_an_answer_streams() -> None:
    host, pruner, streamer, said = LlavaOnevisionTwin(), Norms(0.4), PausingStreamer(), []
    inputs = host.inputs([ROWS[0]])
    start = inputs["input_ids"].shape[1]

    def work() -> None:
        with torch.no_grad():
            output = host.model.generate(**inputs, max_new_tokens=NEW, do_sample=False, streamer=streamer)
        said.extend(output[0, start:].tolist())

    with tangovlm.attach(host.model, pruner):
        thread = threading.Thread(target=work)
        thread.start()
        assert streamer.started.wait(PATIENCE_S)
    # Calls that begin now are stock calls, and the model cannot be attached until the other call has ended.
    assert answer(host, ROWS[1]) == host.reference(ROWS[1], None, NEW)[0]
    with pytest.raises(ModelError, match="still runs: wait for it to end"), tangovlm.attach(host.model, pruner):
        pass
    streamer.may_continue.set()
    thread.join(PATIENCE_S)
    assert said == host.reference(ROWS[0], pruner, NEW)[0]
    assert answer(host, ROWS[0]) == host.reference(ROWS[0], None, NEW)[0]
    with tangovlm.attach(host.model, pruner):
        assert answer(host, ROWS[0]) == said


def test_a_call_in_a_copied_context() -> None:
    """A thread that is started within a call, with a copy of its context, is outside the call."""
    host, pruner, inside = LlavaOnevisionTwin(), Norms(0.4), []

    class Asks(BaseStreamer):  # type: ignore[misc]
        def put(self, _value: Any) -> None:
            if not inside:
                context = contextvars.copy_context()
                inside.append(None)
                inside[:] = at_once([lambda: context.run(answer, host, ROWS[1])])

        def end(self) -> None: ...

    inputs = host.inputs([ROWS[0]])
    with torch.no_grad(), tangovlm.attach(host.model, pruner):
        output = host.model.generate(**inputs, max_new_tokens=NEW, do_sample=False, streamer=Asks())
    assert output[0, inputs["input_ids"].shape[1] :].tolist() == host.reference(ROWS[0], pruner, NEW)[0]
    assert inside == [host.reference(ROWS[1], pruner, NEW)[0]]


def test_asyncio() -> None:
    host, pruner = LlavaOnevisionTwin(), Norms(0.4)

    async def serve() -> list[list[int]]:
        return await asyncio.gather(*(asyncio.to_thread(torch.no_grad()(answer), host, row) for row in ROWS))

    with tangovlm.attach(host.model, pruner):
        assert asyncio.run(serve()) == [host.reference(row, pruner, NEW)[0] for row in ROWS]


def test_ask_at_once() -> None:
    """Two calls of `ask` with one model run one by one; a model that is attached by the user is refused."""
    clips = [
        Frames(
            torch.randint(0, 255, (8, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)),
            torch.arange(8).double(),
            1.0,
            8.0,
        )
        for seed in range(2)
    ]

    def ask(llm: Any, number: int) -> str:
        return str(tangovlm.ask(clips[number], "What color is the star?", model=llm, max_new_tokens=8))

    llm = tangovlm.load()
    alone = [ask(llm, number) for number in range(2)]
    for _ in range(3):
        assert at_once([lambda number=number: ask(llm, number) for number in range(2)]) == alone
    with tangovlm.attach(llm.model, tangovlm.Tango()), pytest.raises(ModelError, match="already attached"):
        ask(llm, 0)
