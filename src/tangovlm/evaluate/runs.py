"""What is compared: a method with its settings, and the settings of the model under it."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

from tangovlm import registry
from tangovlm.errors import InputError
from tangovlm.methods import build
from tangovlm.methods.common.checks import is_integer
from tangovlm.models.common.family import POSITIONS
from tangovlm.tokens import Pruner
from tangovlm.tower.changed import Changed

SALIENCIES = ("p-attn", "attn")
"""The signals that are compared."""


@dataclass(frozen=True)
class Run:
    """One method with its settings: a row of a table.

    Parameters
    ----------
    label: the name of the row.
    group: the part of the table that the row belongs to.
    pruner: the method.
    saliency: "p-attn" or "attn".
    positions: positions of the kept tokens in the language model, see `tangovlm.attach`.
    frames: frames taken from a clip; None for one per moment.
    encode: which of them are encoded, see `tangovlm.attach`; None for all.
    series: the line of a picture that the run is a point of; the label by default.

    Raises
    ------
    InputError: an unknown saliency or unknown positions, or a number of frames that is not a positive integer.
    """

    label: str
    group: str
    pruner: Pruner
    saliency: str = "p-attn"
    positions: str = "contiguous"
    frames: int | None = None
    encode: Changed | None = None
    series: str = ""

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
        """Everything that the answers depend on, as JSON values; without label, group and series."""
        encode = {} if self.encode is None else {"encode": asdict(self.encode)}
        if self.unpruned:
            return {"method": "unpruned", "frames": self.frames, **encode}
        spec = {
            **encode,
            "method": self.pruner.name,
            "settings": settings(self.pruner),
            "saliency": self.saliency,
            "positions": self.positions,
            "frames": self.frames,
        }
        parsed: dict[str, Any] = json.loads(json.dumps(spec, default=str))
        return parsed

    @cached_property
    def key(self) -> str:
        """`spec` as one line."""
        return spec_key(self.spec)

    @property
    def unpruned(self) -> bool:
        """Whether every token is kept, so that the method does not matter."""
        return build.is_identity(self.pruner)

    @property
    def adaptive(self) -> bool:
        """Whether the content decides how many tokens are kept, so that the retention is an upper bound."""
        return build.is_adaptive(self.pruner)

    @property
    def reads_question(self) -> bool:
        """Whether the selection depends on the text of the question."""
        return not self.unpruned and bool(getattr(self.pruner, "reads_question", False))

    @property
    def in_llm(self) -> bool:
        """Whether the method prunes inside the language model, where it depends on the question."""
        return not self.unpruned and getattr(self.pruner, "stage", "pre-llm") != "pre-llm"

    @property
    def needs(self) -> frozenset[str]:
        """The signals that the method reads."""
        return frozenset() if self.unpruned else self.pruner.needs


def spec_key(spec: Mapping[str, Any]) -> str:
    """A spec as one line. Settings that the method has gained since the spec was written take their defaults."""
    if "settings" in spec:
        spec = {**spec, "settings": _with_defaults(spec["method"], spec["settings"])}
    return json.dumps(spec, sort_keys=True, default=str)


def _with_defaults(method: Any, values: Any) -> Any:
    """Settings of a method or a pair, completed with the defaults."""
    if not isinstance(values, Mapping):
        return values
    parts = {
        name: _with_defaults(value.get("method"), value) if isinstance(value, Mapping) else value
        for name, value in values.items()
    }
    cls = registry.methods().get(method) if isinstance(method, str) else None
    known = fields(cls) if is_dataclass(cls) else ()
    return {field.name: field.default for field in known if field.init and field.default is not MISSING} | parts


def settings(pruner: Any) -> dict[str, Any]:
    """The hyper-parameters of a method and their values, including those of nested methods."""
    values = {field.name: getattr(pruner, field.name) for field in fields(pruner) if field.init}
    return {
        name: {"method": value.name} | settings(value) if is_dataclass(value) and hasattr(value, "name") else value
        for name, value in values.items()
    }


def build_run(name: str, retention: float, *, label: str = "", group: str = "", **options: Any) -> Run:
    """A run of a registered method, by default with the saliency that the method is designed for and its positions.

    Parameters
    ----------
    options: `saliency`, `positions`, `frames`, `encode` and `series` of the run; all others are for `tangovlm.method`.

    Raises
    ------
    TangoError: see `tangovlm.method` and `Run`.
    """
    own = {key: options.pop(key) for key in ("saliency", "positions", "frames", "encode", "series") if key in options}
    pruner = build.method(name, retention=retention, **options)
    own.setdefault("saliency", getattr(pruner, "signal", "p-attn"))
    own.setdefault("positions", getattr(pruner, "positions", "contiguous"))
    return Run(label or name, group or percent(retention), pruner, **own)


def unpruned_run(
    frames: int | None = None, label: str = "all tokens", group: str = "100 %", encode: Changed | None = None
) -> Run:
    """A run of the model without pruning."""
    return Run(label, group, build.method("tango", retention=1.0), frames=frames, encode=encode)


def percent(retention: float) -> str:
    """A retention in percent with all its digits, so that different ones look different: `10 %` for 0.1."""
    return f"{(100 * Decimal(str(retention))).normalize():f} %"
