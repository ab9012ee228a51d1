"""Work ahead of an engine, in threads."""

from collections.abc import Iterator

from tangovlm.batch.corpus import Task
from tangovlm.batch.prefetch import Prefetch
from tangovlm.errors import InputError


def task(number: int, video: str) -> Task:
    """A task about a video."""
    return Task(number, video, "What?", 0.1, 64)


def test_work_is_shared_by_tasks_about_one_video() -> None:
    worked: list[str] = []
    tasks = [task(number, "ab"[number // 3]) for number in range(6)]

    def work(task: Task) -> str:
        worked.append(task.path)
        return task.path

    with Prefetch(iter(tasks), work, threads=2) as ahead:
        taken = []
        while (got := ahead.take()) is not None:
            taken.append((got[0].id, got[1].result()))
    assert sorted(taken) == [(number, "ab"[number // 3]) for number in range(6)]
    assert sorted(worked) == ["a", "b"]


def test_no_more_is_drawn_than_has_room() -> None:
    drawn: list[int] = []

    def tasks() -> Iterator[Task]:
        for number in range(100):
            drawn.append(number)
            yield task(number, str(number))

    with Prefetch(tasks(), lambda task: task.path, threads=2) as ahead:
        ahead.take()
        assert len(drawn) <= 4


def test_errors_stay_with_their_task() -> None:
    def work(task: Task) -> str:
        if task.path == "b":
            raise InputError("b is bad")
        return task.path

    with Prefetch(iter([task(1, "a"), task(2, "b"), task(3, "c")]), work) as ahead:
        taken = dict(filter(None, [ahead.take() for _ in range(4)]))
    results = {task.path: future.exception() for task, future in taken.items()}
    assert (results["a"], results["c"]) == (None, None)
    assert isinstance(results["b"], InputError)
