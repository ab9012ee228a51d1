"""What is compared: a method with its settings, and how it is put on the model."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from decimal import Decimal
from typing import Any

from tangovlm import registry
from tangovlm.errors import InputError
from tangovlm.methods import build
from tangovlm.methods.common.checks import is_integer
from tangovlm.session.splice import POSITIONS
from tangovlm.tokens import Pruner

SALIENCIES = ("p-attn", "attn")
"""The signals that are compared."""


@dataclass(frozen=True)
class Run:
    """One row of a table.

    Parameters
    ----------
    label: what the row is called.
    group: the part of the table it stands in.
    pruner: the method.
    saliency: "p-attn" or "attn".
    positions: places of the kept tokens in the language model: without gaps, or those of the full video.
    frames: how many frames of a clip are seen; None for one a moment.

    Raises
    ------
    InputError: no such saliency or positions, or frames that are no number of them.
    """

    label: str
    group: str
    pruner: Pruner
    saliency: str = "p-attn"
    positions: str = "contiguous"
    frames: int | None = None

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("saliency", self.saliency, SALIENCIES),
            ("positions", self.positions, POSITIONS),
        ):
            if value not in choices:
                raise InputError(f"{name} is {value!r}: choose {' or '.join(map(repr, choices))}")
        if self.frames is not None and not (is_integer(self.frames) and self.frames >= 1):
            raise InputError(f"frames is {self.frames!r}: give a whole number from 1, or leave it out")

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that the answers depend on, as JSON has it; the label and group do not count."""
        if self.unpruned:
            return {"method": "unpruned", "frames": self.frames}
        spec = {
            "method": self.pruner.name,
            "settings": settings(self.pruner),
            "saliency": self.saliency,
            "positions": self.positions,
            "frames": self.frames,
        }
        parsed: dict[str, Any] = json.loads(json.dumps(spec, default=str))
        return parsed

    @property
    def key(self) -> str:
        """`spec` as one line."""
        return key_of(self.spec)

    @property
    def unpruned(self) -> bool:
        """Whether every token is kept, so that the method does not matter."""
        return self.pruner.retention == 1

    @property
    def in_llm(self) -> bool:
        """Whether the method looks at the question inside the language model."""
        return not self.unpruned and getattr(self.pruner, "stage", "pre-llm") != "pre-llm"

    @property
    def needs(self) -> frozenset[str]:
        """The signals that are read."""
        return frozenset() if self.unpruned else self.pruner.needs


def key_of(spec: Mapping[str, Any]) -> str:
    """The one line of a spec. Settings that its method has gained since it was written have their defaults."""
    if "settings" in spec:
        spec = {**spec, "settings": _completed(spec["method"], spec["settings"])}
    return json.dumps(spec, sort_keys=True, default=str)


def _completed(method: Any, given: Any) -> Any:
    """Settings of a method or a pair with those that are missing."""
    if not isinstance(given, Mapping):
        return given
    parts = {
        name: _completed(value.get("method"), value) if isinstance(value, Mapping) else value
        for name, value in given.items()
    }
    cls = registry.methods().get(method) if isinstance(method, str) else None
    known = fields(cls) if is_dataclass(cls) else ()
    return {field.name: field.default for field in known if field.init and field.default is not MISSING} | parts


def settings(pruner: Any) -> dict[str, Any]:
    """The fields of a method that can be chosen, with their values; methods within a method too."""
    values = {field.name: getattr(pruner, field.name) for field in fields(pruner) if field.init}
    return {
        name: {"method": value.name} | settings(value) if is_dataclass(value) and hasattr(value, "name") else value
        for name, value in values.items()
    }


def run(name: str, retention: float, *, label: str = "", group: str = "", **options: Any) -> Run:
    """A method of the registry under the signal that it is meant for.

    Parameters
    ----------
    options: `saliency`, `positions` and `frames` of the run; the others go to the method.

    Raises
    ------
    TangoError: see `tangovlm.method` and `Run`.
    """
    about = {key: options.pop(key) for key in ("saliency", "positions", "frames") if key in options}
    pruner = build.method(name, retention=retention, **options)
    about.setdefault("saliency", getattr(pruner, "signal", "p-attn"))
    return Run(label or name, group or percent(retention), pruner, **about)


def unpruned(frames: int | None = None, label: str = "all tokens", group: str = "100 %") -> Run:
    """The model as it is."""
    return Run(label, group, build.method("tango", retention=1.0), frames=frames)


def percent(retention: float) -> str:
    """`0.1` as `10 %`, with all its digits, so that no two look alike."""
    return f"{(100 * Decimal(str(retention))).normalize():f} %"
