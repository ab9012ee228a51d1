"""What a session records for pictures: other retentions of a method, and what remains after each cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import tangovlm
from tangovlm.errors import InputError, MethodError
from tangovlm.methods.build import Pair, with_retention
from tangovlm.methods.common.selection import keep_only
from tangovlm.methods.topk import TopK
from tangovlm.models.common.transformers_compat import encodes_first
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.parts import RandomWords, Video
from tangovlm.selfcheck.twins.llava_video import LlavaVideoTwin
from tangovlm.selfcheck.twins.qwen2_5_vl import Qwen25VLTwin
from tangovlm.session.records import Recording, VideoRecord
from tangovlm.tokens import Selection, VideoTokens
from tests.support.recording import Recorder

FRAMES = 8
RETENTIONS = (0.03, 0.2, 0.5, 1.0)
ROW = (RandomWords(2, 1), Video(FRAMES, 5), RandomWords(4, 2))
TWO = (RandomWords(2, 1), Video(FRAMES, 6), RandomWords(3, 3), Video(FRAMES, 7), RandomWords(4, 2))
INSIDE = [name for name, cls in tangovlm.methods().items() if cls.stage == "in-llm"]
BEFORE = [name for name, cls in tangovlm.methods().items() if cls.stage != "in-llm"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module", params=[LlavaVideoTwin, Qwen25VLTwin])
def host(request: pytest.FixtureRequest) -> Twin:
    twin: Twin = request.param()
    return twin


def records(host: Twin, pruner: Any, rows: list[Any], record: Any = True, **options: Any) -> list[VideoRecord]:
    with tangovlm.attach(host.model, pruner, record=record, **options) as session:
        host.model.generate(**host.inputs(rows), max_new_tokens=2, do_sample=False)
    return session.videos


@pytest.mark.parametrize("options", [{}, {"newlines": "counted"}], ids=["kept", "counted"])
@pytest.mark.parametrize("name", BEFORE)
def test_alternatives_are_what_the_method_keeps_at_these_retentions(
    host: Twin, name: str, options: dict[str, Any]
) -> None:
    pruner = tangovlm.method(name, retention=0.3)
    try:
        (plain,) = records(host, pruner, [ROW], **options)
    except (InputError, tangovlm.errors.ModelError) as error:
        pytest.skip(f"the family or the method cannot: {error}")
    (record,) = records(host, pruner, [ROW], Recording(RETENTIONS), **options)
    assert torch.equal(record.selection.indices, plain.selection.indices)
    assert torch.equal(record.selection.features, plain.selection.features)
    assert plain.alternatives == ()
    assert [each.retention for each in record.alternatives] == list(RETENTIONS)
    for each in record.alternatives:
        if each.selection is None:
            with pytest.raises(InputError) as raised:
                records(host, tangovlm.method(name, retention=each.retention), [ROW], **options)
            assert each.reason == str(raised.value)
            continue
        (alone,) = records(host, tangovlm.method(name, retention=each.retention), [ROW], **options)
        assert torch.equal(each.selection.indices, alone.selection.indices)
        assert torch.equal(each.selection.sources, alone.selection.sources)
        assert each.selection.segments == alone.selection.segments
        assert each.selection.features.shape[1] == 0


def test_alternatives_of_a_pair_are_what_enters_the_model(host: Twin) -> None:
    pair = Pair(tangovlm.Tango(), tangovlm.method("fastv", layer=1, keep_ratio=0.5), retention=0.4)
    (record,) = records(host, pair, [ROW], Recording((0.1, 0.2, 0.95)))
    low, middle, high = record.alternatives
    for each in (low, middle):
        (alone,) = records(host, with_retention(pair, each.retention), [ROW])
        assert each.selection is not None
        assert torch.equal(each.selection.indices, alone.selection.indices)
    assert high.selection is None
    assert "tango+fastv" in high.reason


def test_what_cannot_be_changed_is_said(host: Twin) -> None:
    (record,) = records(host, Recorder(), [ROW], Recording((0.2,)))
    assert record.alternatives[0].selection is None
    assert "wants" in record.alternatives[0].reason
    with pytest.raises(MethodError, match="cannot be changed"):
        with_retention(Recorder(), 0.2)
    with pytest.raises(InputError, match="retention"):
        Recording((0.2, 1.5))
    with pytest.raises(InputError, match="are 0.2: give a tuple"):
        Recording(0.2)  # type: ignore[arg-type] # is the mistake


@dataclass(frozen=True)
class Drawn:
    """A method that keeps random tokens."""

    name: ClassVar[str] = "drawn"
    stage: ClassVar[str] = "pre-llm"
    needs: ClassVar[frozenset[str]] = frozenset()

    retention: float = 0.3
    generator: torch.Generator | None = None

    def __call__(self, tokens: VideoTokens) -> Selection:
        order = torch.randperm(tokens.count, generator=self.generator)
        return keep_only(tokens, order[: tangovlm.budget.count(self.retention, tokens.count)].sort().values)


@pytest.mark.parametrize("own", [False, True])
def test_alternatives_of_a_random_method_do_not_change_what_follows(host: Twin, own: bool) -> None:
    found = []
    for record in (True, Recording((0.1, 0.5))):
        torch.manual_seed(0)
        pruner = Drawn(generator=torch.Generator().manual_seed(1) if own else None)
        kept = [each.selection.indices.tolist() for each in records(host, pruner, [TWO], record)]
        found.append((kept, torch.rand(1).item()))
    assert found[0] == found[1]


class Slow(TopK):
    """A method that takes an hour at one retention."""

    hours = 0

    def __call__(self, tokens: VideoTokens) -> Selection:
        Slow.hours += self.retention == 0.2
        return super().__call__(tokens)


def test_alternatives_count_in_no_stage(host: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.machine.stopwatch.time.perf_counter", lambda: 3600.0 * Slow.hours)
    with tangovlm.attach(host.model, Slow(retention=0.5), record=Recording((0.2,))) as session:
        host.model.generate(**host.inputs([ROW]), max_new_tokens=2, do_sample=False)
    assert Slow.hours == 1
    assert sum(session.report.timings_ms.values()) == 0
    with tangovlm.attach(host.model, Slow(retention=0.2)) as session:
        host.model.generate(**host.inputs([ROW]), max_new_tokens=2, do_sample=False)
    assert session.report.timings_ms["prune"] == 3_600_000
    Slow.hours = 0


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch, pruner: Any) -> Iterator[list[tuple[Tensor, Tensor, int]]]:
    """The calls of a method: positions of the visual tokens, which of them remain, and the number of added ones."""
    calls: list[tuple[Tensor, Tensor, int]] = []
    stock = type(pruner).__call__

    def call(self: Any, view: Any) -> Any:
        step = stock(self, view)
        calls.append((view.visual, step.indices, len(step.values) - len(step.indices)))
        return step

    with monkeypatch.context() as patch:
        patch.setattr(type(pruner), "__call__", call)
        yield calls


@pytest.mark.parametrize("name", INSIDE)
def test_cuts_are_the_tokens_that_remain(host: Twin, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pruner = tangovlm.method(name, retention=0.6)
    with watched(monkeypatch, pruner) as calls:
        (record,) = records(host, pruner, [ROW])
    assert len(record.cuts) == len(calls) > 0
    left = record.selection.indices
    for cut, (_, indices, added) in zip(record.cuts, calls, strict=True):
        left = left[indices]
        assert torch.equal(cut.indices, left[left >= 0])
        assert len(cut.indices) + cut.added == record.report.tokens_per_layer[cut.layer]
        left = torch.cat([left, torch.full((added,), -1)])
        assert cut.added == int((left < 0).sum())
    layers = record.report.tokens_per_layer
    assert [cut.layer for cut in record.cuts] == [n for n in range(1, len(layers)) if layers[n] != layers[n - 1]]


def test_cuts_of_a_pair_are_places_on_the_grid(host: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(tangovlm.Tango(), tangovlm.method("fastv", layer=1, keep_ratio=0.5), retention=0.3)
    with watched(monkeypatch, pair.inside) as calls:
        (record,) = records(host, pair, [ROW])
    ((_, indices, _),) = calls
    assert record.cuts[0].indices.tolist() == record.selection.indices[indices].tolist()
    assert len(indices) < len(record.selection.indices) < record.report.tokens_before


@pytest.mark.parametrize("beams", [1, 2])
def test_cuts_of_batches_and_of_several_videos(host: Twin, monkeypatch: pytest.MonkeyPatch, beams: int) -> None:
    """One prompt with two videos and a padded one with one."""
    if beams > 1 and not encodes_first(host.model):
        pytest.skip("every copy of a video is encoded and recorded")
    pruner = tangovlm.method("fastv", layer=1, keep_ratio=0.5)
    with watched(monkeypatch, pruner) as calls, tangovlm.attach(host.model, pruner, record=True) as session:
        host.model.generate(**host.inputs([TWO, ROW]), max_new_tokens=2, do_sample=False, num_beams=beams)
    videos = session.videos
    both, one = calls[0][1], calls[beams][1]
    first = videos[0].report.tokens_before
    expected = [both[both < first], both[both >= first] - first, one]
    assert [video.cuts[0].indices.tolist() for video in videos] == [each.tolist() for each in expected]


def test_nothing_is_recorded_unless_requested(host: Twin) -> None:
    with tangovlm.attach(host.model, tangovlm.method("fastv", layer=1, keep_ratio=0.5)) as session:
        host.model.generate(**host.inputs([ROW]), max_new_tokens=2, do_sample=False)
    assert session.videos == []
