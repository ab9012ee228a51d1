"""Settings of an engine in this process, and which engine to use: vLLM if it can run the model, else transformers."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoints import checkpoint, hub
from ..errors import InputError, MethodError, ModelError
from ..machine.installation import install_command
from ..pipeline import load
from ..pipeline.load import BUILTIN_NAME
from ..serve.model_registry import SERVED_MODELS, described_family
from ..serve.options import ADAPTIVE_REASON, ServeOptions
from .engine import Engine

ENGINES = ("vllm", "transformers")


@dataclass(frozen=True)
class Settings:
    """Settings of an engine; can be pickled and sent to other machines.

    Parameters
    ----------
    model: directory or hub id; None for the embedded model.
    method: name of a registered method.
    retention: of rows that do not set their own.
    saliency, head_weights: see `tangovlm.load`.
    frames: number of frames of a task that sets neither a number nor a rate; None for the default of the model.
    device, dtype: None for the default of the engine.
    concurrency: number of clips in vLLM at a time.
    extra: command-line options of vLLM.
    kind: one of `ENGINES`; None before `choose_engine`.
    params: hyper-parameters of the method other than its retention.
    adaptive: let the content decide how many tokens are kept, see `tangovlm.method`.
    positions: of the kept tokens, see `tangovlm.attach`; None for the method's own.
    encode: "all" frames or those that "changed", see `tangovlm.attach`.
    """

    model: str | None = None
    method: str = "tango"
    retention: float = 0.1
    saliency: str | None = None
    head_weights: str | None = None
    frames: int | None = None
    device: str | None = None
    dtype: str | None = None
    concurrency: int = 16
    extra: tuple[str, ...] = ()
    kind: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    adaptive: bool = False
    positions: str | None = None
    encode: str = "all"

    @property
    def name(self) -> str:
        """Name of the model in the file of answers."""
        return BUILTIN_NAME if self.model is None else self.model

    @property
    def options(self) -> ServeOptions:
        """Options for the vLLM plug-in.

        Raises
        ------
        MethodError: a method that vLLM cannot serve.
        """
        if self.adaptive:
            raise MethodError(f"method {self.method!r} {ADAPTIVE_REASON}")
        return ServeOptions(
            retention=self.retention,
            method=self.method,
            params=self.params,
            saliency=self.saliency,
            head_weights=self.head_weights,
            positions=self.positions,
        )

    def build(self) -> Engine:
        """Load the model and return the engine.

        Raises
        ------
        TangoError: see `tangovlm.load`, `vllm_engine.engine_arguments` and `VllmEngine`.
        """
        if self.kind == "vllm":
            from .vllm_engine import VllmEngine, engine_arguments

            words = (*self.extra, *(("--dtype", self.dtype) if self.dtype else ()))
            return VllmEngine(engine_arguments(self.model, self.options, words), self.frames, self.concurrency)
        import torch

        from .transformers_engine import TransformersEngine

        number_format: torch.dtype | None = None if self.dtype is None else getattr(torch, self.dtype)
        llm = load.load(
            self.model,
            device=self.device,
            dtype=number_format,
            saliency=self.saliency,
            head_weights=self.head_weights,
        )
        options: dict[str, Any] = {"adaptive": self.adaptive, "positions": self.positions, "encode": self.encode}
        return TransformersEngine(llm, self.method, self.frames, **options, **self.params)


def choose_engine(settings: Settings) -> tuple[str, str]:
    """The kind of engine to use, and the reason if it is not vLLM.

    Raises
    ------
    ModelError: the model does not exist.
    """
    reason = _why_not_vllm(settings)
    return ("transformers", reason) if reason else ("vllm", "")


def _why_not_vllm(settings: Settings) -> str:
    if importlib.util.find_spec("vllm") is None:
        return f"vLLM is not installed ({install_command('vllm')})"
    folder = load.embedded_folder(settings.model)
    source = str(folder or settings.model)
    local = folder is not None or Path(source).exists()
    name = checkpoint.architecture(source, local=local, reachable=local or hub.reachable())
    if name not in SERVED_MODELS:
        return f"the plug-in for vLLM does not know {name}"
    if settings.device is not None:
        return "vLLM does not accept --device"
    if settings.encode != "all":
        return "vLLM encodes all frames"
    family = described_family(name)
    if name in family.wholes:
        return f"only tangovlm serve runs {name} on vLLM"
    try:
        settings.options.check_newlines(family)
    except (MethodError, ModelError) as error:
        return str(error)
    return ""


def check_settings(settings: Settings) -> None:
    """Check that the settings fit together, before anything is loaded.

    Raises
    ------
    TangoError: the engine is not installed, or does not support the model, the method or an option.
    """
    if settings.kind == "vllm":
        if reason := _why_not_vllm(settings):
            raise InputError(f"{reason}: use --engine transformers, or fix that")
        return
    if settings.extra:
        raise InputError(
            f"{settings.extra[0]} is not an option of tangovlm batch, and options of vLLM need --engine vllm"
        )
