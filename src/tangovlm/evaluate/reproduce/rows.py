"""One row of a table: a method with its settings and a number of frames, and the resolved settings on a model."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tangovlm.errors import InputError, TangoError
from tangovlm.methods.build import Pair, plan
from tangovlm.methods.common.segments import similarity_threshold
from tangovlm.methods.common.st_rope import default_sections
from tangovlm.methods.in_llm.common.base import Cut, InLLMMethod

from ..harness.settings import Settings
from ..runs import settings
from .models import Shape

UNPRUNED = "unpruned"
PAPER, RELEASE = "tango-paper", "tango-release"
"""Names of Tango as the paper's text describes it, and as the authors' code implements it."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Parameters
    ----------
    label: the name for the reader.
    group: the rows that are compared; usually the kept share of the tokens.
    method: a registered name, `PAPER`, `RELEASE` or `UNPRUNED`.
    retention: mean kept fraction over the layers of the language model (Eq. 1); 1 for the unpruned model.
    frames: frames per video.
    in_llm: a method inside the language model that is combined with `method`.
    params: settings of the method before the language model.
    saliency: "attn" or "p-attn"; None for the method's default.
    published: the name of the row in the paper; None if it is the label.
    """

    label: str
    group: str
    method: str
    retention: float
    frames: int
    in_llm: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    saliency: str | None = None
    published: str | None = None

    @property
    def key(self) -> str:
        """A unique name within the table that can be used for a folder."""
        words = f"{self.group}-{self.label}".replace("%", "").replace("+", " and ")
        return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-")

    def settings(self, shape: Shape) -> Settings:
        """The harness settings of the row on a model of this shape.

        Raises
        ------
        TangoError: see `Settings`.
        """
        return Settings(
            shape.model,
            "tango" if self.unpruned else self.method,
            self.retention,
            self.frames,
            saliency=self.saliency,
            in_llm=self.in_llm,
            max_frame_pixels=shape.max_frame_pixels,
            params=self.params,
        )

    @property
    def unpruned(self) -> bool:
        """Whether nothing is pruned."""
        return self.retention == 1


@dataclass(frozen=True)
class ResolvedRow:
    """A row on a model, with all defaults resolved.

    Parameters
    ----------
    row: the row of the table.
    settings: every hyper-parameter that the answers depend on, as JSON values.
    before: kept fraction before the language model.
    cuts: where and how much is pruned inside the language model.
    unreachable: why this model cannot run the row, or None.
    """

    row: Row
    settings: dict[str, Any]
    before: float
    cuts: tuple[Cut, ...]
    unreachable: str | None = None


def resolve(row: Row, shape: Shape) -> ResolvedRow:
    """Resolve a row on a model of this shape."""
    pruner = row.settings(shape).pruner()
    try:
        planned = plan(pruner, shape.text.layers)
    except TangoError as error:
        return ResolvedRow(row, _spec(row, shape, pruner, None, ()), 1.0, (), str(error))
    before = 1.0 if planned.before is None else planned.before.retention
    cuts = planned.cuts if planned.inside is not None else ()
    return ResolvedRow(row, _spec(row, shape, pruner, planned.before, cuts), before, cuts)


def _spec(row: Row, shape: Shape, pruner: Any, before: Any, cuts: tuple[Cut, ...]) -> dict[str, Any]:
    """All settings by name; those of the method inside the language model are under "in_llm"."""
    about: dict[str, Any] = {"method": row.method, "retention": row.retention, "frames": row.frames}
    if shape.max_frame_pixels is not None:
        about["max_frame_pixels"] = shape.max_frame_pixels
    if row.unpruned:
        return about
    inside = None
    if isinstance(pruner, InLLMMethod):
        before, inside = None, pruner
    elif isinstance(pruner, Pair):
        # The pair's own method if the model's layers cannot reach the retention.
        before, inside = before or pruner.before, pruner.inside
    if before is not None:
        about |= {
            "retention_before_llm": before.retention,
            "saliency": row.saliency or getattr(before, "signal", None),
            **_resolved(settings(before), before, shape),
        }
    if inside is not None:
        about["in_llm"] = {
            "method": inside.name,
            **settings(inside),
            "cuts": [{"from_layer": cut.layer, "keep": cut.keep} for cut in cuts],
            "layers": shape.text.layers,
        }
    parsed: dict[str, Any] = json.loads(json.dumps(about, default=str))
    return parsed


def _resolved(values: dict[str, Any], method: Any, shape: Shape) -> dict[str, Any]:
    """The settings with the values that None stands for."""
    del values["retention"]
    if "segment_threshold" in values and values["segment_threshold"] is None:
        values["segment_threshold"] = similarity_threshold(method.equivalent_retention or method.retention)
    if "static_threshold" in values and values["static_threshold"] is None:
        values["static_threshold"] = values["segment_threshold"]
    if "rope_sections" in values and values["rope_sections"] is None and values["st_rope"]:
        values["rope_sections"] = default_sections(shape.text.hidden)
    return values


def check_unique_keys(rows: tuple[Row, ...]) -> None:
    """Raise `InputError` if two rows have the same key, and so the same folder."""
    keys = [row.key for row in rows]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"two rows are called {key!r}")
