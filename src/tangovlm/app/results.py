"""What the page shows of a question: a column for each method, filled while the model runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tangovlm.report.exchange import Exchange, heading, percent

from .clips import Clip

if TYPE_CHECKING:
    from tangovlm.pipeline.answer import Answer
    from tangovlm.report import Scene

_PICTURE_BYTES = 1_500_000
"""Upper bound of the length of all frames of a clip."""


@dataclass(frozen=True)
class Choice:
    """A method and a retention; 1.0 is the model with all tokens."""

    method: str
    retention: float

    @property
    def is_full(self) -> bool:
        """Whether every token is kept."""
        return self.retention >= 1.0

    @property
    def words(self) -> str:
        """`all tokens` or `tango, 10 %`."""
        return "all tokens" if self.is_full else f"{self.method}, {percent(self.retention)}"


@dataclass(frozen=True)
class Result:
    """An answer, and what is drawn of it.

    Parameters
    ----------
    answer: without its record, whose features are large.
    drawn: the frames with the tokens that were kept.
    left: `(T, H, W)` True for the tokens that the last layer of the language model reads; None without a record.
    pictures: the frames of `drawn`, as data URIs.
    layers: the layers over them, by name and frame, as data URIs.
    """

    answer: Answer
    drawn: Scene
    left: np.ndarray | None
    pictures: tuple[str, ...]
    layers: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, answer: Answer, others: Iterable[Result] = ()) -> Result:
        """From an answer with its record, which is dropped.

        Parameters
        ----------
        others: results whose pictures are used if they are of the same frames.
        """
        from tangovlm.report import scene
        from tangovlm.report.embed import jpegs

        from .drawing import kept_in_the_end, layers_of

        drawn = scene(answer.frames, answer.video)
        answer.video = None
        same = (each for each in others if each.answer.frames is answer.frames and each.drawn.steps == drawn.steps)
        other = next(same, None)
        if other is None:
            pictures = tuple(jpegs(drawn.images, drawn.aspect, _PICTURE_BYTES))
        else:
            drawn, pictures = replace(drawn, images=other.drawn.images), other.pictures
        left = None if drawn.kept is None else kept_in_the_end(drawn)
        return cls(answer, drawn, left, pictures, layers_of(drawn))

    @property
    def total_ms(self) -> float:
        """Time of the question if it were asked alone."""
        return sum(self.answer.timings_ms.values())


@dataclass(frozen=True)
class Column:
    """One method on the page.

    Parameters
    ----------
    text: of the answer so far.
    result: once it is complete.
    error: why there is none.
    """

    choice: Choice
    text: str = ""
    result: Result | None = None
    error: str = ""

    @property
    def heading(self) -> str:
        """Method and retention, as the answer says if there is one."""
        return self.choice.words if self.result is None else heading(self.result.answer)

    @property
    def is_done(self) -> bool:
        """Whether nothing will change any more."""
        return self.result is not None or bool(self.error)


@dataclass(frozen=True)
class Run:
    """A question about a clip with its columns.

    Parameters
    ----------
    frames: number of frames that were asked for.
    stage: what the model is doing, in words; empty if it is done.
    error: why there are no answers at all.
    """

    clip: Clip
    question: str
    columns: tuple[Column, ...]
    frames: int
    stage: str = ""
    error: str = ""

    @classmethod
    def begin(cls, clip: Clip, question: str, choices: Sequence[Choice], frames: int) -> Run:
        """A run that nothing is known of yet."""
        return cls(clip, question, tuple(map(Column, choices)), frames)

    def with_column(self, place: int, **changes: object) -> Run:
        """The same run with changes to a column."""
        columns = list(self.columns)
        columns[place] = replace(columns[place], **changes)  # type: ignore[arg-type] # fields of `Column`
        return replace(self, columns=tuple(columns))

    @property
    def truth(self) -> str | None:
        """The true answer, if it is known."""
        return self.clip.truth(self.question)

    @property
    def is_done(self) -> bool:
        """Whether all columns are done."""
        return bool(self.error) or all(column.is_done for column in self.columns)

    @property
    def full(self) -> Column | None:
        """The column of all tokens."""
        return next((column for column in self.columns if column.choice.is_full), None)

    @property
    def pruned(self) -> tuple[Column, ...]:
        """The other columns; that of all tokens if there is no other."""
        return tuple(column for column in self.columns if not column.choice.is_full) or self.columns[:1]

    @property
    def exchange(self) -> Exchange | None:
        """The first pruned answer and that of all tokens, for a report; None until both are complete."""
        first, full = self.pruned[0].result, self.full
        whole = None if full is None or full.result is None else full.result.answer
        if first is None or whole is None:
            return None
        return Exchange(self.question, first.answer, None if whole is first.answer else whole, self.truth)
