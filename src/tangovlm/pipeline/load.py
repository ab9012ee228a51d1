"""A checkpoint in, a model with all that it takes to ask it out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ..checkpoints import checkpoint
from ..checkpoints import llava_original as original
from ..errors import InputError, ModelError, TangoError
from ..inputs.pixels import whole
from ..models.common.family import Family
from ..video import decode
from .processor import Processor

BUILTIN = Path(__file__).parents[1] / "tiny" / "weights"

# What a config of wrong values meets with in transformers.
_LOADING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
)


@dataclass(frozen=True, eq=False)
class VideoLLM:
    """A loaded model with what it takes to ask it.

    Parameters
    ----------
    model: the stock `transformers` model, in evaluation mode.
    tokenizer: the checkpoint's own.
    family: the model's family, bound to it.
    name: as it was asked for.
    builtin: whether it is the embedded model.
    default_frames: how many frames it is meant for.
    config: the checkpoint's preprocessor config.
    template: the processor's chat template, None for the tokenizer's.
    """

    model: Any
    tokenizer: Any
    family: Family
    name: str
    builtin: bool
    default_frames: int
    config: Mapping[str, Any]
    template: str | None

    @property
    def processor(self) -> Processor:
        """Text and videos into model inputs; files are decoded into `default_frames` frames."""
        read = partial(decode, frames=self.default_frames, fit=partial(self.family.frame_size, self.config))
        return Processor(self.family, self.tokenizer, self.template, self.config, read)

    def limited(self, max_frame_pixels: int | None) -> "VideoLLM":
        """The same model, which is shown smaller frames: of at most so many pixels, height times width.

        Parameters
        ----------
        max_frame_pixels: such as ``448 * 448``; None for the sizes that the checkpoint asks for.

        Raises
        ------
        InputError: no whole number, less than a token has, or a model that takes frames of one size only.
        """
        if max_frame_pixels is None:
            return self
        if isinstance(max_frame_pixels, bool) or not isinstance(max_frame_pixels, int):
            raise InputError(f"max_frame_pixels is {max_frame_pixels!r}: it must be a whole number, such as 448 * 448")
        return replace(self, config=self.family.limited(self.config, max_frame_pixels))


def load(
    model: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    device_map: str | None = None,
    dtype: torch.dtype | None = None,
    saliency: str | None = None,
    head_weights: str | Path | None = None,
    max_frame_pixels: int | None = None,
) -> VideoLLM:
    """Load a checkpoint: safetensors only, no remote code, SDPA attention.

    Checkpoints in the format of LLaVA's authors become stock-looking models, see `tangovlm.checkpoints.llava_original`.

    Parameters
    ----------
    model: checkpoint directory or hub id; None for the embedded model.
    device: None for CUDA where there is one.
    device_map: in place of `device`, how `accelerate` spreads the weights over devices, such as "auto".
    dtype: None for float32 on the CPU and the checkpoint's own elsewhere.
    saliency, head_weights: see `tangovlm.attach`.
    max_frame_pixels: see `VideoLLM.limited`.

    Raises
    ------
    ModelError: a missing or incomplete checkpoint, or an unsupported architecture.
    InputError: no such device here, both a device and a device map; see `VideoLLM.limited`.
    """
    if device is not None and device_map is not None:
        raise InputError("both a device and a device_map are given: leave one of them out")
    source = str(BUILTIN if model is None else model)
    # What is a directory here, or looks like a path, is never asked of the hub.
    local = model is None or Path(source).exists() or source.startswith((".", "/", "~"))
    source = str(Path(source).expanduser()) if local else source
    if model is None and not (BUILTIN / "config.json").is_file():
        raise ModelError("this installation has no embedded model: name one, a checkpoint directory or a hub id")
    name = checkpoint.architecture(source, local=local)
    target = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    number_type = dtype or (torch.float32 if target.type == "cpu" else "auto")
    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False, "attn_implementation": "sdpa"}
    if device_map is not None:
        options["device_map"] = device_map
    open_parts = original.load if name in original.ARCHITECTURES else partial(checkpoint.load, name)
    try:
        parts = open_parts(source, dtype=number_type, use_safetensors=True, **options)
    except TangoError:
        raise
    except _LOADING_ERRORS as error:
        raise ModelError(
            f"cannot load {source} ({checkpoint.first_line(error)}): fetch the checkpoint again, as safetensors"
        ) from error
    frames = parts.pixels.get("num_frames")
    llm = VideoLLM(
        model=(parts.model if device_map is not None else parts.model.to(target)).eval(),
        tokenizer=parts.tokenizer,
        family=parts.family(parts.model, saliency=saliency, head_weights=head_weights, config=parts.pixels),
        name="tangovlm-tiny" if model is None else str(model),
        builtin=model is None,
        default_frames=whole("num_frames", frames) if frames else parts.family.default_frames,
        config=parts.pixels,
        template=parts.template,
    )
    return llm.limited(max_frame_pixels)


def _device(name: str | torch.device) -> torch.device:
    """A device that is there."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise InputError(f"cannot use the device {name!r} ({checkpoint.first_line(error)}): name another") from error
    return device
