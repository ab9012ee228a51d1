"""Building methods: `method` by name, `Pair` of two methods, and `plan` for a model with a known number of layers.

A pair is a method before the language model and one inside it, with one retention for both (Tango paper, Eq. 1).
`Method` is the type of everything that `tangovlm.attach` accepts.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar

from ..budget import before_llm, equivalent_retention, kept_per_layer, validate_retention
from ..errors import InputError, MethodError
from ..registry import methods, nearest
from ..tokens import Pruner
from .in_llm.common.base import Cut, InLLMMethod

ADAPTIVE_PAIR = (
    "the retention of the pair is that of a video that needs as many tokens as may be kept; others keep fewer"
)


@dataclass(frozen=True)
class Pair:
    """Prune before the language model and again inside it, such that the layers keep `retention` on average.

    The fraction kept before the model follows from Eq. 1 once the number of layers is known: 0.1217 for a retention of
    0.10 if half of the tokens are kept from layer 18 of 28 on.

    Parameters
    ----------
    before: a method before the model. Its retention is replaced, and its `equivalent_retention`, if it has that field,
        is set to the pair's retention, which determines thresholds that the papers set by the mean over the layers.
    inside: a method inside the model; the fraction that it keeps of the tokens entering the model is chosen by the
        method.
    retention: mean fraction of all visual tokens over the layers, in (0, 1]; 1 keeps everything.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: `before` or `inside` is not a method of that kind.

    >>> from tangovlm import Tango, method
    >>> plan(Pair(Tango(), method("tango-fastv"), retention=0.10), layers=28).before.retention
    0.12173913043478261
    """

    stage: ClassVar[str] = "pair"

    before: Any
    inside: InLLMMethod
    retention: float = 0.1

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        if not isinstance(self.inside, InLLMMethod):
            raise MethodError(
                f"a pair needs a method inside the model such as fastv second, not {_describe(self.inside)}"
            )
        if not self.inside.in_pairs:
            raise MethodError(
                f"a pair cannot have {self.inside.name!r} second: it chooses among all visual tokens of a video: "
                "attach it alone, or take fastv or tango-fastv"
            )
        is_instance = is_dataclass(self.before) and not isinstance(self.before, type)
        if not is_instance or not callable(self.before) or isinstance(self.before, InLLMMethod):
            raise MethodError(
                f"a pair needs a method before the model such as tango first, not {_describe(self.before)}"
            )
        if "retention" not in {field.name for field in fields(self.before) if field.init}:
            raise MethodError(f"a pair sets the retention of {self.before.name!r}, which has none")

    @property
    def name(self) -> str:
        """Both names, in the form that `tangovlm.method` accepts."""
        return f"{self.before.name}+{self.inside.name}"

    @property
    def needs(self) -> frozenset[str]:
        """Signals that the method before the model needs."""
        needs: frozenset[str] = self.before.needs
        return needs

    @property
    def signal(self) -> str | None:
        """Saliency that the method before the model is designed for."""
        return getattr(self.before, "signal", None)

    @property
    def reads_question(self) -> bool:
        """Whether one of the two selections depends on the text of the prompt."""
        return self.inside.reads_question or getattr(self.before, "reads_question", False)

    @property
    def adaptive(self) -> bool:
        """Whether the content decides how many tokens are kept before the model, see `PreLLMMethod.adaptive`."""
        return is_adaptive(self.before)


Method = Pruner | InLLMMethod | Pair
"""What `tangovlm.attach` accepts: a method before the language model (a `PreLLMMethod` or any other `Pruner`), one
inside it, or a pair of both."""


def is_adaptive(pruner: Any) -> bool:
    """Whether the content decides how many tokens a method keeps, so that its retention is an upper bound."""
    return bool(getattr(pruner, "adaptive", False))


def is_identity(pruner: Any) -> bool:
    """Whether a method keeps every token unchanged."""
    return bool(getattr(pruner, "is_identity", pruner.retention == 1))


def method(name: str, *, adaptive: bool = False, **params: Any) -> Any:
    """Build a registered method, or a pair of one before the language model and one inside it.

    Parameters
    ----------
    name: such as "tango", or "tango+fastv" for a `tangovlm.methods.build.Pair`, whose only parameter is `retention`.
    adaptive: let the content decide how many tokens are kept, up to the retention: the fields that the method names for
        that (`PreLLMMethod.adaptive_fields`) are set, unless they are among `params`.
    params: fields of the method.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: an unknown name, an unknown parameter, one outside its range, or `adaptive` for a method with a fixed
        number of tokens.

    Examples
    --------
    >>> import tangovlm
    >>> tangovlm.method("topk", retention=0.2)
    TopK(retention=0.2, exact=True, signal='attn')
    >>> tangovlm.method("tango", retention=0.2, context_ratio=0.3) == tangovlm.Tango(retention=0.2, context_ratio=0.3)
    True

    A method before the language model and one inside it, which together keep 10 % on average over the layers:

    >>> pair = tangovlm.method("tango+fastv", retention=0.1)
    >>> pair.name, pair.before.name, pair.inside.name
    ('tango+fastv', 'tango', 'fastv')

    >>> tangovlm.method("tengo")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    tangovlm.errors.MethodError: unknown method 'tengo': choose one of dart, ... visionzip; did you mean 'tango'?
    """
    if not isinstance(name, str):
        raise MethodError(f"method expects the name of a method such as 'tango', not {name!r}")
    if "+" in name:
        return _pair(name, params, adaptive)
    known = methods()
    if name not in known:
        raise MethodError(f"unknown method {name!r}: choose one of {', '.join(known)}{nearest(name, known)}")
    cls = known[name]
    if is_dataclass(cls):
        accepted = [field.name for field in fields(cls) if field.init]
        for param in params:
            if param not in accepted:
                raise MethodError(
                    f"method {name!r} has no parameter {param!r}: it takes {', '.join(accepted)}"
                    f"{nearest(param, accepted)}"
                )
    if adaptive:
        params = {**_adaptive_fields(name, known), **params}
    return cls(**params)


def _adaptive_fields(name: str, known: Mapping[str, type]) -> Mapping[str, Any]:
    fields_of = {each: getattr(cls, "adaptive_fields", {}) for each, cls in known.items()}
    if not fields_of[name]:
        able = ", ".join(each for each, values in fields_of.items() if values) or "none"
        raise MethodError(f"method {name!r} keeps a fixed number of tokens: adaptive counts are possible with {able}")
    return fields_of[name]


def _pair(name: str, params: dict[str, Any], adaptive: bool) -> Any:
    parts = name.split("+")
    if len(parts) != 2 or not all(parts):
        raise MethodError(f"a pair has two parts such as 'tango+fastv', not {name!r}")
    if unknown := sorted(set(params) - {"retention"}):
        raise MethodError(
            f"the pair {name!r} takes retention only, not {unknown[0]!r}: build its methods and pass them to "
            f"tangovlm.methods.build.Pair{nearest(unknown[0], ['retention'], 0.6)}"
        )
    before, inside = method(parts[0], adaptive=adaptive), method(parts[1])
    return Pair(before, inside, **params)


@dataclass(frozen=True, eq=False)
class Plan:
    """A method resolved for a model with a known number of layers.

    Parameters
    ----------
    name: of the method or pair.
    retention: intended mean kept fraction over the layers.
    before: prunes before the model; None if nothing is pruned there.
    inside: prunes inside the model, at `cuts`; None if nothing is pruned there.
    cuts: layers and kept fractions inside the model.
    notes: messages for the report.
    """

    name: str
    retention: float
    before: Pruner | None
    inside: InLLMMethod | None
    cuts: tuple[Cut, ...]
    notes: tuple[str, ...]

    def retention_for(self, tokens: int) -> float:
        """Intended kept fraction of a video with this many tokens: `retention`, unless the method keeps a number."""
        number = None if self.inside is None else self.inside.absolute_count
        return self.retention if number is None else min(1.0, number / tokens)


def plan(pruner: Method, layers: int) -> Plan:
    """Solve Eq. 1 for a method before the model, one inside it, or a pair.

    Raises
    ------
    InputError: a retention that Eq. 1 cannot reach.
    MethodError: see `InLLMMethod.cuts`.
    """
    if isinstance(pruner, Pair):
        if pruner.retention == 1 and not pruner.adaptive:
            return Plan(pruner.name, 1.0, None, None, (), ())
        inner = _plan_inside(pruner.inside, layers)
        try:
            share = before_llm(pruner.retention, kept_per_layer(inner.cuts, layers))
        except InputError as error:
            raise InputError(f"the pair {pruner.name!r}: {error}") from error
        unpruned = share == 1 and not pruner.adaptive
        before = None if unpruned else _with_retention(pruner.before, share, pruner.retention)
        notes = (*inner.notes, *((ADAPTIVE_PAIR,) if pruner.adaptive else ()))
        return replace(inner, name=pruner.name, retention=pruner.retention, before=before, notes=notes)
    if isinstance(pruner, InLLMMethod):
        return _plan_inside(pruner, layers)
    return Plan(pruner.name, pruner.retention, None if is_identity(pruner) else pruner, None, (), ())


def with_retention(pruner: Method, retention: float) -> Any:
    """A copy of a method or a pair with another retention, which shares nothing with it, such as a random generator.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: the method has no field for it.

    >>> from tangovlm import Tango
    >>> with_retention(Tango(retention=0.1, neighbors=5), 0.2).retention
    0.2
    """
    if not is_dataclass(pruner) or "retention" not in {field.name for field in fields(pruner) if field.init}:
        raise MethodError(f"the retention of {_describe(pruner)} cannot be changed: it is not a field of the method")
    return replace(deepcopy(pruner), retention=retention)


def _with_retention(before: Any, retention: float, equivalent: float) -> Any:
    """The method before the model with the retention that follows from Eq. 1."""
    changes = {"retention": retention}
    if "equivalent_retention" in {field.name for field in fields(before) if field.init}:
        changes["equivalent_retention"] = equivalent
    return replace(before, **changes)


def _describe(part: Any) -> str:
    """The name of a method, the repr of anything else."""
    name = None if isinstance(part, type) else getattr(part, "name", None)
    return repr(part if name is None else name)


def _plan_inside(method: InLLMMethod, layers: int) -> Plan:
    cuts = method.cuts(layers)
    retention = method.retention
    if retention is None:
        retention = equivalent_retention([float(kept) for kept in kept_per_layer(cuts, layers)])
    notes = tuple(note for note in (method.scaling_note(layers),) if note)
    return Plan(method.name, retention, None, method if cuts else None, cuts, notes)
