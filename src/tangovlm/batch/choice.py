"""Which engine answers: vLLM where it can, transformers otherwise."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoints import checkpoint
from ..errors import InputError, MethodError
from ..pipeline import load as loading
from ..serve.command import BUILTIN_NAME
from ..serve.models.served import MODELS
from ..serve.options import ServeOptions
from .engine import Engine

ENGINES = ("vllm", "transformers")


@dataclass(frozen=True)
class Settings:
    """What an engine in a process is made from; travels to other machines.

    Parameters
    ----------
    model: directory or hub id; None for the embedded model.
    method: registered name.
    retention: of rows that do not say.
    saliency, head_weights: see `tangovlm.load`.
    frames: how many to take of a clip; None for what the model is meant for.
    device, dtype: where and in which number format to run; None for the engine's own choice.
    concurrency: clips in vLLM at a time.
    extra: options of vLLM, as on its command line.
    kind: of `ENGINES`; None until decided, see `decide`.
    params: of the method, beside its retention.
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

    @property
    def name(self) -> str:
        """What the model is called in the file of answers."""
        return BUILTIN_NAME if self.model is None else self.model

    @property
    def options(self) -> ServeOptions:
        """Those of vLLM's plug-in.

        Raises
        ------
        MethodError: a method that vLLM cannot serve.
        """
        return ServeOptions(
            retention=self.retention,
            method=self.method,
            params=self.params,
            saliency=self.saliency,
            head_weights=self.head_weights,
        )

    def build(self) -> Engine:
        """The engine, with its model loaded.

        Raises
        ------
        TangoError: see `tangovlm.load`, `in_vllm.engine_arguments` and `InVllm`.
        """
        if self.kind == "vllm":
            from .in_vllm import InVllm, engine_arguments

            words = (*self.extra, *(("--dtype", self.dtype) if self.dtype else ()))
            return InVllm(engine_arguments(self.model, self.options, words), self.frames, self.concurrency)
        import torch

        from .in_transformers import InTransformers

        number_format: torch.dtype | None = None if self.dtype is None else getattr(torch, self.dtype)
        llm = loading.load(
            self.model,
            device=self.device,
            dtype=number_format,
            saliency=self.saliency,
            head_weights=self.head_weights,
        )
        return InTransformers(llm, self.method, self.frames, **self.params)


def decide(settings: Settings) -> tuple[str, str]:
    """The kind of engine for settings without one, and why it is not vLLM, if it is not.

    Raises
    ------
    ModelError: no such model.
    """
    reason = _why_not_vllm(settings)
    return ("transformers", reason) if reason else ("vllm", "")


def _why_not_vllm(settings: Settings) -> str:
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed (pip install 'tangovlm[vllm]')"
    source = str(loading.BUILTIN if settings.model is None else settings.model)
    name = checkpoint.architecture(source, local=settings.model is None or Path(source).exists())
    if name not in MODELS:
        return f"the plug-in for vLLM does not know {name}"
    if settings.device is not None:
        return "vLLM takes no --device"
    try:
        _ = settings.options
    except MethodError as error:
        return str(error)
    return ""


def check(settings: Settings) -> None:
    """Refuse what does not go together, before anything is loaded.

    Raises
    ------
    TangoError: an engine that is not installed or does not know the model, a method that it cannot use, options that
        it does not take.
    """
    if settings.kind == "vllm":
        if reason := _why_not_vllm(settings):
            raise InputError(f"{reason}: take --engine transformers, or mend that")
        return
    if settings.extra:
        raise InputError(f"{settings.extra[0]} is no option of tangovlm batch, and vLLM, whose it may be, is not used")
