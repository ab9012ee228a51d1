"""What a harness is told about the model and the method: read from its `key=value` arguments, and checked."""

import ast
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any

from tangovlm import registry
from tangovlm.budget import validate_retention
from tangovlm.errors import InputError, MethodError
from tangovlm.methods import build
from tangovlm.methods.build import Pair
from tangovlm.methods.common.checks import is_integer
from tangovlm.methods.in_llm.common.base import InLLMMethod
from tangovlm.session.newlines import NEWLINES
from tangovlm.session.splice import POSITIONS
from tangovlm.tokens import Pruner

BACKENDS = ("transformers", "vllm")
EMBEDDED = ("tangovlm-tiny", "embedded")
"""Names of the embedded model."""
VARIANTS = ("release", "paper")
"""Ways to build Tango by a class method: `tango-release` is `Tango.release`."""
VLLM_PREFIX = "vllm_"
_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """A model and a method, as a harness names them.

    Parameters
    ----------
    pretrained: checkpoint directory or hub id; "tangovlm-tiny" for the embedded model.
    method: a registered name, a pair such as "tango+fastv", "tango-release" or "tango-paper".
    retention: fraction of the visual tokens to keep, in (0, 1]; 1 is the unpruned model.
    frames: frames taken of a video; with `fps` the most that are taken. None for what the model is meant for, or for no
        limit where `fps` is given.
    fps: frames taken a second of a video.
    positions, saliency, newlines: see `tangovlm.attach`.
    in_llm: name of a method inside the language model, which makes a pair with `method`.
    batch_size: videos in one call of the model.
    device: such as "cuda:1"; None for CUDA where there is one.
    device_map: such as "auto", to spread the weights over devices.
    dtype: "float32", "bfloat16", "float16" or "auto"; None for float32 on the CPU and the checkpoint's own elsewhere.
    max_frame_pixels: see `VideoLLM.limited`.
    head_weights: see `tangovlm.attach`.
    backend: "transformers" or "vllm".
    params: further parameters of the method.
    vllm: options of vLLM's engine, as on its command line.

    Raises
    ------
    TangoError: a value out of its range, or settings that do not go together.

    Example
    -------
    >>> settings = Settings.read(pretrained="tangovlm-tiny", method="tango", retention="0.1", in_llm="fastv")
    >>> settings.pruner().name
    'tango+fastv'
    """

    pretrained: str
    method: str = "tango"
    retention: float = 0.1
    frames: int | None = None
    fps: float | None = None
    positions: str | None = None
    saliency: str | None = None
    in_llm: str | None = None
    batch_size: int = 1
    device: str | None = None
    device_map: str | None = None
    dtype: str | None = None
    max_frame_pixels: int | None = None
    head_weights: str | None = None
    newlines: str | None = None
    backend: str = "transformers"
    params: Mapping[str, Any] = field(default_factory=dict)
    vllm: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        for name in ("frames", "batch_size", "max_frame_pixels"):
            value = getattr(self, name)
            if value is not None and not (is_integer(value) and value >= 1):
                raise InputError(f"{name} is {value!r}: give a whole number from 1")
        if self.fps is not None and not (_is_number(self.fps) and 0 < self.fps < inf):
            raise InputError(f"fps is {self.fps!r}: give a number above 0")
        chosen = (("positions", POSITIONS), ("newlines", NEWLINES), ("backend", BACKENDS), ("dtype", _DTYPES))
        for name, choices in chosen:
            value = getattr(self, name)
            if value not in choices and not (value is None and name != "backend"):
                raise InputError(f"{name} is {value!r}: choose {' or '.join(map(repr, choices))}")
        if self.device is not None and self.device_map is not None:
            raise InputError("both device and device_map are given: leave one of them out")
        self._check_backend()
        self.pruner()

    def _check_backend(self) -> None:
        if self.backend != "vllm":
            if self.vllm:
                raise InputError(f"the option {self.vllm[0]} is vLLM's: give backend=vllm with it")
            return
        refused = ("in_llm", "positions", "newlines", "device", "device_map", "fps", "max_frame_pixels")
        if given := [name for name in refused if getattr(self, name) is not None]:
            raise InputError(f"backend=vllm does not take {given[0]}: leave it out, or take backend=transformers")

    # --- what they stand for --------------------------------------------------------------------------------------

    @property
    def embedded(self) -> bool:
        """Whether the model is the embedded one."""
        return self.pretrained in EMBEDDED

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint for `tangovlm.load`: None for the embedded model."""
        return None if self.embedded else self.pretrained

    def pruner(self) -> Pruner | InLLMMethod | Pair:
        """The method; with retention 1 one that keeps everything.

        Raises
        ------
        MethodError: no such method, or parameters that it does not take.
        """
        name, params = self.method, dict(self.params)
        if not isinstance(name, str):
            raise MethodError(f"method is {name!r}: give the name of a method such as 'tango'")
        if self.in_llm is None:
            return _method(name, params, self.retention)
        if "+" in name:
            raise MethodError(f"method={name} names a pair, and in_llm={self.in_llm} another method: leave one out")
        inside = build.method(self.in_llm)
        return Pair(_method(name, params, self.retention), inside, retention=self.retention)

    def as_dict(self) -> dict[str, Any]:
        """Everything that the answers depend on, as JSON has it; for records and file names."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return values | {"params": dict(self.params), "vllm": list(self.vllm)}

    # --- reading them ---------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, **given: Any) -> "Settings":
        """From the arguments of a harness: strings, numbers and flags.

        Names that are no field are parameters of the method (`context_ratio=0.4`), or, with the prefix `vllm_`, options
        of vLLM's engine (`vllm_tensor_parallel_size=8`). `release=True` with the method tango is "tango-release".

        Raises
        ------
        TangoError: see `Settings`; a name that nobody knows.
        """
        known = {each.name for each in fields(cls)} - {"params", "vllm"}
        values: dict[str, Any] = {name: _parsed(value) for name, value in given.items()}
        if values.get("pretrained") in (None, ""):
            raise InputError("pretrained is missing: give a checkpoint directory, a hub id, or tangovlm-tiny")
        for name in ("pretrained", "method", "in_llm", "device", "device_map", "dtype", "saliency", "head_weights"):
            # A directory may be named like a number.
            if values.get(name) is not None:
                values[name] = str(given[name])
        for name in [name for name, value in values.items() if name in known and value is None]:
            del values[name]
        if "release" in values:
            values["method"] = _released(values.pop("release"), values.get("method", "tango"))
        engine = {name: values.pop(name) for name in list(values) if name.startswith(VLLM_PREFIX)}
        params = {name: values.pop(name) for name in list(values) if name not in known}
        _check_names(params, known, str(values.get("method", "tango")))
        return cls(**values, params=params, vllm=tuple(_words(engine)))


def _method(name: str, params: dict[str, Any], retention: float) -> Any:
    base, _, variant = name.rpartition("-")
    if variant in VARIANTS and base == "tango":
        make = getattr(registry.methods()[base], variant, None)
        if not callable(make):
            raise MethodError(f"this version has no method {name}: take tango or tango-release")
        return make(retention=retention, **params)
    return build.method(name, retention=retention, **params)


def _released(flag: Any, method: str) -> str:
    if not isinstance(flag, bool):
        raise InputError(f"release is {flag!r}: give True or False")
    if not flag or method == "tango-release":
        return method
    if method != "tango":
        raise MethodError(f"release=True belongs to the method tango, not to {method}: leave it out")
    return "tango-release"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _parsed(value: Any) -> Any:
    """Text that reads as a number, a flag or None as what it says; anything else as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    flags = {"true": True, "false": False, "none": None}
    if text.lower() in flags:
        return flags[text.lower()]
    try:
        parsed = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return parsed if isinstance(parsed, (int, float)) else text


def _check_names(params: Mapping[str, Any], known: set[str], method: str) -> None:
    """Refuse a name that is neither of the settings nor of the method, with the nearest of them all."""
    cls = registry.methods().get(method.removesuffix("-release").removesuffix("-paper"))
    if cls is None:
        # An unknown method is named by `build.method`, a pair's parameters too.
        return
    own = {name for name, each in getattr(cls, "__dataclass_fields__", {}).items() if each.init}
    for name in params:
        if name not in own:
            near = difflib.get_close_matches(name, sorted(known | own | {"release"}), n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"{name} is no setting, and no parameter of the method {method}: settings are "
                f"{', '.join(sorted(known))}{hint}"
            )


def _words(engine: Mapping[str, Any]) -> list[str]:
    """Options as vLLM's command line has them."""
    words: list[str] = []
    for name, value in engine.items():
        option = "--" + name.removeprefix(VLLM_PREFIX).replace("_", "-")
        if value is not False:
            words += [option] if value is True else [option, str(value)]
    return words
