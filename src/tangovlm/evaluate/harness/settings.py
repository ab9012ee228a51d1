"""Settings of the model and the method, read from the `key=value` arguments of a harness and validated."""

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
from tangovlm.methods.build import Method, Pair
from tangovlm.methods.common.checks import is_integer
from tangovlm.models.common.family import POSITIONS
from tangovlm.session.encoding.newlines import NEWLINES

BACKENDS = ("transformers", "vllm")
EMBEDDED = ("tangovlm-tiny", "embedded")
"""Names of the embedded model."""
VARIANTS = ("release", "paper")
"""Class methods that construct Tango: `tango-release` is `Tango.release`."""
VLLM_PREFIX = "vllm_"
_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """A model and a method with their settings.

    Parameters
    ----------
    pretrained: checkpoint directory or hub id; "tangovlm-tiny" for the embedded model.
    method: a registered name, a pair such as "tango+fastv", "tango-release" or "tango-paper".
    retention: fraction of the visual tokens to keep, in (0, 1]; 1 is the unpruned model.
    frames: number of frames per video; the maximum number if `fps` is given. None for the model's default, or for no
        maximum if `fps` is given.
    fps: frames per second of video.
    positions, saliency, newlines: see `tangovlm.attach`.
    in_llm: name of a method inside the language model that forms a pair with `method`.
    batch_size: number of videos in one call of the model.
    device: such as "cuda:1"; None for CUDA if it is available.
    device_map: such as "auto", to spread the weights over devices.
    dtype: "float32", "bfloat16", "float16" or "auto"; None for float32 on the CPU and the checkpoint's dtype elsewhere.
    max_frame_pixels: see `VideoLLM.limited`.
    head_weights: see `tangovlm.attach`.
    backend: "transformers" or "vllm".
    adaptive: let the content decide how many tokens are kept, at most `retention`; see `tangovlm.method`.
    params: further parameters of the method.
    vllm: options of vLLM's engine, as on its command line.

    Raises
    ------
    TangoError: a value out of its range, or settings that cannot be combined.

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
    adaptive: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)
    vllm: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        if not isinstance(self.adaptive, bool):
            raise InputError(f"adaptive is {self.adaptive!r}: give True or False")
        for name in ("frames", "batch_size", "max_frame_pixels"):
            value = getattr(self, name)
            if value is not None and not (is_integer(value) and value >= 1):
                raise InputError(f"{name} is {value!r}: give a whole number from 1")
        if self.fps is not None and not (_is_number(self.fps) and 0 < self.fps < inf):
            raise InputError(f"fps is {self.fps!r}: give a number above 0")
        for name, choices in (
            ("positions", POSITIONS),
            ("newlines", NEWLINES),
            ("backend", BACKENDS),
            ("dtype", _DTYPES),
        ):
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
        refused = ("in_llm", "newlines", "device", "device_map", "fps", "max_frame_pixels")
        if unsupported := [name for name in refused if getattr(self, name) is not None]:
            raise InputError(f"backend=vllm does not take {unsupported[0]}: leave it out, or use backend=transformers")

    # --- derived values -------------------------------------------------------------------------------------------

    @property
    def embedded(self) -> bool:
        """Whether the model is the embedded one."""
        return self.pretrained in EMBEDDED

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint for `tangovlm.load`; None for the embedded model."""
        return None if self.embedded else self.pretrained

    def pruner(self) -> Method:
        """Construct the method; with retention 1 it keeps everything.

        Raises
        ------
        MethodError: an unknown method, or parameters that it does not have.
        """
        name, params = self.method, dict(self.params)
        if not isinstance(name, str):
            raise MethodError(f"method is {name!r}: give the name of a method such as 'tango'")
        if self.in_llm is None:
            return _method(name, params, self.retention, self.adaptive)
        if "+" in name:
            raise MethodError(f"method={name} names a pair, and in_llm={self.in_llm} another method: leave one out")
        inside = build.method(self.in_llm)
        before = _method(name, params, self.retention, self.adaptive)
        return Pair(before, inside, retention=self.retention)

    def as_dict(self) -> dict[str, Any]:
        """All settings as JSON values, for records and file names."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return values | {"params": dict(self.params), "vllm": list(self.vllm)}

    # --- parsing --------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, **arguments: Any) -> "Settings":
        """Read the arguments of a harness: strings, numbers and flags.

        Names that are not fields are parameters of the method (`context_ratio=0.4`), or, with the prefix `vllm_`,
        options of vLLM's engine (`vllm_tensor_parallel_size=8`). `release=True` with the method tango is
        "tango-release".

        Raises
        ------
        TangoError: see `Settings`; an unknown name.
        """
        known = {each.name for each in fields(cls)} - {"params", "vllm"}
        values: dict[str, Any] = {name: _parse(value) for name, value in arguments.items()}
        if values.get("pretrained") in (None, ""):
            raise InputError("pretrained is missing: give a checkpoint directory, a hub id, or tangovlm-tiny")
        for name in ("pretrained", "method", "in_llm", "device", "device_map", "dtype", "saliency", "head_weights"):
            # The name of a directory may look like a number.
            if values.get(name) is not None:
                values[name] = str(arguments[name])
        for name in [name for name, value in values.items() if name in known and value is None]:
            del values[name]
        if "release" in values:
            values["method"] = _release_method(values.pop("release"), values.get("method", "tango"))
        engine = {name: values.pop(name) for name in list(values) if name.startswith(VLLM_PREFIX)}
        params = {name: values.pop(name) for name in list(values) if name not in known}
        _check_names(params, known, str(values.get("method", "tango")))
        return cls(**values, params=params, vllm=tuple(_engine_options(engine)))


def _method(name: str, params: dict[str, Any], retention: float, adaptive: bool) -> Any:
    base, _, variant = name.rpartition("-")
    if variant not in VARIANTS or base != "tango":
        return build.method(name, adaptive=adaptive, retention=retention, **params)
    if adaptive:
        raise MethodError(f"method {name!r} keeps a fixed number of tokens: leave adaptive out")
    constructor = getattr(registry.methods()[base], variant, None)
    if not callable(constructor):
        raise MethodError(f"this version has no method {name}: use tango or tango-release")
    return constructor(retention=retention, **params)


def _release_method(flag: Any, method: str) -> str:
    if not isinstance(flag, bool):
        raise InputError(f"release is {flag!r}: give True or False")
    if not flag or method == "tango-release":
        return method
    if method != "tango":
        raise MethodError(f"release=True belongs to the method tango, not to {method}: leave it out")
    return "tango-release"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _parse(value: Any) -> Any:
    """The number, flag or None that a text stands for; any other value unchanged."""
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
    """Refuse a name that is neither a setting nor a parameter of the method, and suggest the most similar one."""
    cls = registry.methods().get(method.removesuffix("-release").removesuffix("-paper"))
    if cls is None:
        # `build.method` refuses an unknown method, and the parameters of a pair.
        return
    own = {name for name, each in getattr(cls, "__dataclass_fields__", {}).items() if each.init}
    for name in params:
        if name not in own:
            similar = difflib.get_close_matches(name, sorted(known | own | {"release"}), n=1, cutoff=0.6)
            hint = f"; did you mean {similar[0]!r}?" if similar else ""
            raise InputError(
                f"{name} is no setting, and no parameter of the method {method}: settings are "
                f"{', '.join(sorted(known))}{hint}"
            )


def _engine_options(engine: Mapping[str, Any]) -> list[str]:
    """Options in the form of vLLM's command line."""
    words: list[str] = []
    for name, value in engine.items():
        option = "--" + name.removeprefix(VLLM_PREFIX).replace("_", "-")
        if value is not False:
            words += [option] if value is True else [option, str(value)]
    return words
