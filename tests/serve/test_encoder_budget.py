"""What the vision encoder does in one step: unpruned tokens count, and one video is always encoded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tangovlm.serve.options import REQUEST_KEY as RETENTION

pytest.importorskip("vllm")

WHOLE = 1000


def request(kept: int, retention: float | None) -> Any:
    """A request with one video, or with an image if there is no retention."""
    fields = {} if retention is None else {RETENTION: SimpleNamespace(data=retention)}
    features = [SimpleNamespace(data=fields, identifier="clip")]
    return SimpleNamespace(mm_features=features, get_num_encoder_embeds=lambda _number: kept)


class Step:
    """As the scheduler asks in one step."""

    def __init__(self, budget: Any) -> None:
        self.budget, self.left, self.scheduled = budget, WHOLE, 0

    def takes(self, kept: int, retention: float | None, *, dropped: bool = False) -> bool:
        """Whether an item is taken; `dropped` if its request then does not fit for another reason."""
        fits: bool = self.budget.can_allocate(request(kept, retention), 0, self.left, self.scheduled)
        if fits and not dropped:
            self.left, self.scheduled = self.left - kept, self.scheduled + kept
        return fits


@pytest.fixture
def budget() -> Any:
    from tangovlm.serve.encoder_budget import EncoderBudget

    return EncoderBudget(cache_size=5000)


def test_as_many_videos_as_without_pruning(budget: Any) -> None:
    for kept, retention, videos in ((50, 0.1, 2), (250, 0.5, 2), (100, 0.2, 2), (30, 0.1, 3), (400, 1.0, 2)):
        step = Step(budget)
        assert [step.takes(kept, retention) for _ in range(videos + 1)] == [True] * videos + [False]


def test_one_video_is_always_encoded(budget: Any) -> None:
    for _ in range(2):
        step = Step(budget)
        assert step.takes(900, 0.1)
        assert not step.takes(1, 0.5)


def test_images_count_as_before(budget: Any) -> None:
    step = Step(budget)
    assert [step.takes(300, None) for _ in range(4)] == [True, True, True, False]
    assert not step.takes(20, 0.1)
    assert step.takes(9, 0.1)


def test_what_was_not_scheduled_does_not_count(budget: Any) -> None:
    step = Step(budget)
    assert step.takes(60, 0.1)
    assert step.takes(30, 0.1, dropped=True)
    assert step.takes(40, 0.1)
    assert not step.takes(1, 0.1)


def test_a_preempted_request_returns_its_part(budget: Any) -> None:
    step = Step(budget)
    assert step.takes(20, 0.1)
    assert step.takes(80, 0.1)
    step.left += 80
    assert step.takes(70, 0.1)
    step.left += 20
    assert not step.takes(300, 1.0)


def test_the_cache_limits_as_before(budget: Any) -> None:
    budget.num_free_slots = budget.num_freeable_slots = 30
    assert not Step(budget).takes(31, 0.1)
    assert Step(budget).takes(30, 0.1)
