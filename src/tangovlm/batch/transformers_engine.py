"""A stock model in this process: the questions about a clip share its encoding, and clips are decoded ahead."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from ..inputs.prompting import check_question
from ..methods import build
from ..pipeline.answer import Answer
from ..pipeline.ask import ask
from ..pipeline.embedded import BUILTIN_NOTE, embedded_note
from ..pipeline.encoded.encoded_clip import EncodedClip
from ..pipeline.encoded.encoding import Encoding, prepare
from ..pipeline.load import VideoLLM
from .clips import DecodedClip, decode_clip
from .corpus import Id, Task
from .engine import Outcome, failure
from .prefetch import Prefetch

GATHERED_ROWS = 1024
"""Rows that are read ahead, so that those about one clip are answered together."""
_ROWS_AT_ONCE = 16
"""Rows that are answered before they are written, so that little is lost if the process is killed."""


class TransformersEngine:
    """Answers of `tangovlm.ask`, with one encoding for all tasks about a clip among `GATHERED_ROWS`.

    Parameters
    ----------
    llm: from `tangovlm.load`.
    method: name of a registered method; `params` are its hyper-parameters other than the retention.
    frames: number of frames of a task that sets neither a number nor a rate; None for the default of the model.
    adaptive: see `tangovlm.method`.
    positions, encode: see `tangovlm.attach`.
    """

    def __init__(
        self,
        llm: VideoLLM,
        method: str,
        frames: int | None = None,
        *,
        adaptive: bool = False,
        positions: str | None = None,
        encode: str = "all",
        **params: Any,
    ) -> None:
        self._llm = llm
        self._method = method
        self._params = params
        self._adaptive = adaptive
        self._options: dict[str, Any] = {"positions": positions, "encode": encode}
        self._frames = frames or llm.default_frames

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Engine.answer`; tasks about one clip follow each other."""
        groups: dict[Id, list[Task]] = {}

        def first_of_each_clip() -> Iterator[Task]:
            for group in gather_by_clip(tasks):
                groups[group[0].id] = group
                yield group[0]

        with Prefetch(first_of_each_clip(), self._decode) as clips:
            while (taken := clips.take()) is not None:
                first, decoded = taken
                group = groups.pop(first.id)
                try:
                    clip = decoded.result()
                except Exception as error:
                    # An error of any library on one clip must not affect the others.
                    yield from (failure(task, error) for task in group)
                    continue
                yield from self._answer_group(group, clip)

    def _decode(self, task: Task) -> DecodedClip:
        return decode_clip(task, self._frames, partial(self._llm.family.prompt.frame_size, self._llm.config))

    def _answer_group(self, group: Sequence[Task], clip: DecodedClip) -> Iterator[Outcome]:
        """Outcomes of tasks about one clip."""
        first: EncodedClip | None = None
        prepared = self._prepared(clip) if len(group) > 1 else None
        for retention, own in _by(group, "retention").items():
            encoded: EncodedClip | None = None
            if prepared is not None:
                refused = self._refused(prepared, own)
                yield from (failure(task, error, clip.fields) for task, error in refused)
                own = [task for task in own if all(task is not other for other, _ in refused)]
                if len(own) > 1 or first is not None:
                    encoded = self._encoded(prepared, first, retention)
                    first = first or encoded
            for count, tasks in _by(own, "max_new_tokens").items():
                for start in range(0, len(tasks), _ROWS_AT_ONCE):
                    yield from self._answer_tasks(tasks[start : start + _ROWS_AT_ONCE], clip, encoded, count)

    def _prepared(self, clip: DecodedClip) -> Encoding | None:
        """The clip as it is before encoding; None if that fails, so that each task says why."""
        try:
            return prepare(self._llm, clip.frames, **self._options)
        except Exception:
            return None

    def _refused(self, prepared: Encoding, tasks: Sequence[Task]) -> list[tuple[Task, Exception]]:
        """The tasks whose prompts are invalid or too long, which is known before the clip is encoded."""
        refused: list[tuple[Task, Exception]] = []
        for task in tasks:
            try:
                check_question(task.question)
                prepared.check(self._pruner(task.retention), [task.question])
            except Exception as error:
                refused.append((task, error))
        return refused

    def _encoded(self, prepared: Encoding, first: EncodedClip | None, retention: float | None) -> EncodedClip | None:
        """The clip under the method with this retention; None if that fails, so that each task says why.

        Parameters
        ----------
        first: the clip with another retention.
        """
        try:
            pruner = self._pruner(retention)
            return EncodedClip(prepared, pruner) if first is None else first.with_method(pruner)
        except Exception:
            return None

    def _answer_tasks(
        self, tasks: Sequence[Task], clip: DecodedClip, encoded: EncodedClip | None, count: int
    ) -> Iterator[Outcome]:
        """Outcomes of tasks with the same retention and length."""
        if encoded is not None:
            try:
                answers = encoded.ask_all([task.question for task in tasks], max_new_tokens=count)
                outcomes = [self._outcome(task, clip, answer) for task, answer in zip(tasks, answers, strict=True)]
            except Exception:
                # One of them is the cause: it is found by asking each alone.
                pass
            else:
                yield from outcomes
                return
        for task in tasks:
            try:
                yield self._outcome(task, clip, self._ask(task, clip, encoded))
            except Exception as error:
                yield failure(task, error, clip.fields)

    def _ask(self, task: Task, clip: DecodedClip, encoded: EncodedClip | None) -> Answer:
        if encoded is not None:
            return encoded.ask(task.question, max_new_tokens=task.max_new_tokens)
        return ask(
            clip.frames,
            task.question,
            model=self._llm,
            method=self._pruner(task.retention),
            max_new_tokens=task.max_new_tokens,
            **self._options,
        )

    def _outcome(self, task: Task, clip: DecodedClip, answer: Answer) -> Outcome:
        fields: dict[str, Any] = {
            "answer": str(answer),
            "tokens_before": answer.tokens_before,
            "tokens_after": answer.tokens_after,
            **clip.fields,
            "notes": [note for note in answer.notes if note != BUILTIN_NOTE],
        }
        # The answer is about frames, of which nothing says where they are from.
        if (note := embedded_note(self._llm, task.path)) is not None:
            fields["notes"].append(note)
        timings = {stage: round(ms, 3) for stage, ms in answer.timings_ms.items()}
        fields["timings_ms"] = {**timings, **fields["timings_ms"]}
        shared = {stage: round(ms, 3) for stage, ms in answer.shared_ms.items()}
        # The answer is about frames that were decoded before.
        fields["shared_ms"] = shared | ({"decode": fields["timings_ms"]["decode"]} if shared else {})
        if answer.tokens_cap is not None:
            fields["tokens_cap"] = answer.tokens_cap
        if answer.encoded_frames is not None:
            fields["encoded_frames"] = answer.encoded_frames
        return Outcome(task, fields)

    def _pruner(self, retention: float | None) -> Any:
        return build.method(self._method, adaptive=self._adaptive, retention=retention, **self._params)


def gather_by_clip(tasks: Iterator[Task], rows: int = GATHERED_ROWS) -> Iterator[list[Task]]:
    """Tasks about the same frames of a clip among every `rows` tasks, clips in the order of their first tasks."""
    while read := list(islice(tasks, rows)):
        yield from _by(read, "clip").values()


def _by(tasks: Sequence[Task], name: str) -> dict[Any, list[Task]]:
    groups: dict[Any, list[Task]] = {}
    for task in tasks:
        groups.setdefault(getattr(task, name), []).append(task)
    return groups
