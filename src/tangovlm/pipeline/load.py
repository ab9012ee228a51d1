"""Load a checkpoint: a model with its tokenizer and processor."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ..checkpoints import checkpoint, llava_original
from ..errors import InputError, ModelError, TangoError
from ..inputs.pixels import whole
from ..models.common.family import Family
from ..video import decode
from .processor import Processor

BUILTIN = Path(__file__).parents[1] / "tiny" / "weights"
BUILTIN_NAME = "tangovlm-tiny"
"""The default model, for world 1."""
_OTHER_EMBEDDED = {"tangovlm-tiny-2": "weights-2"}
"""Name of another embedded model, and its directory beside that of the default one."""

# Raised by transformers for invalid values in a config.
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
    """A loaded model with its tokenizer and preprocessor config.

    Parameters
    ----------
    model: the stock `transformers` model, in evaluation mode.
    tokenizer: the checkpoint's own.
    family: the model's family, bound to it.
    name: the name that `load` was given.
    builtin: whether it is an embedded model.
    default_frames: number of frames that the model is meant for.
    config: the checkpoint's preprocessor config.
    template: chat template of the processor, None for that of the tokenizer.
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
        """The processor, which decodes `default_frames` frames of a file."""
        read = partial(decode, frames=self.default_frames, fit=partial(self.family.prompt.frame_size, self.config))
        return Processor(self.family, self.tokenizer, self.template, self.config, read)

    def limited(self, max_frame_pixels: int | None) -> "VideoLLM":
        """The same model with a limit on the size of a frame in pixels, height times width.

        Parameters
        ----------
        max_frame_pixels: such as ``448 * 448``; None for the sizes that the checkpoint specifies.

        Raises
        ------
        InputError: not a whole number, fewer pixels than a token has, or a model with a fixed frame size.
        """
        if max_frame_pixels is None:
            return self
        if isinstance(max_frame_pixels, bool) or not isinstance(max_frame_pixels, int):
            raise InputError(f"max_frame_pixels is {max_frame_pixels!r}: give a whole number, such as 448 * 448")
        return replace(self, config=self.family.prompt.limited(self.config, max_frame_pixels))


def embedded_models() -> tuple[str, ...]:
    """The names of the embedded models, the default one first."""
    return BUILTIN_NAME, *_OTHER_EMBEDDED


def embedded_folder(model: str | Path | None) -> Path | None:
    """The directory of an embedded model, None for another model.

    Parameters
    ----------
    model: a name of an embedded model, or None for the default one; a directory of that name comes first.
    """
    if model is None:
        return BUILTIN
    if str(model) not in embedded_models() or Path(model).exists():
        return None
    return BUILTIN.with_name(_OTHER_EMBEDDED[str(model)]) if str(model) in _OTHER_EMBEDDED else BUILTIN


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

    Checkpoints in the format of LLaVA's authors become stock models, see `tangovlm.checkpoints.llava_original`.

    Parameters
    ----------
    model: checkpoint directory, hub id, or name of an embedded model: "tangovlm-tiny", the default, or
        "tangovlm-tiny-2".
    device: None for CUDA if available, else the CPU.
    device_map: instead of `device`, how `accelerate` distributes the weights over devices, such as "auto".
    dtype: None for float32 on the CPU and the checkpoint's own elsewhere.
    saliency, head_weights: see `tangovlm.attach`.
    max_frame_pixels: see `VideoLLM.limited`.

    Raises
    ------
    ModelError: a missing or incomplete checkpoint, or an unsupported architecture.
    InputError: an unavailable device, both a device and a device map; see `VideoLLM.limited`.

    Examples
    --------
    >>> llm = load()
    >>> llm.name, llm.builtin, llm.default_frames
    ('tangovlm-tiny', True, 16)
    """
    if device is not None and device_map is not None:
        raise InputError("both a device and a device_map are given: leave one of them out")
    folder = embedded_folder(model)
    source = str(folder or model)
    # An existing directory, or anything that looks like a path, is never looked up on the hub.
    local = folder is not None or Path(source).exists() or source.startswith((".", "/", "~"))
    source = str(Path(source).expanduser()) if local else source
    if folder is not None and not (folder / "config.json").is_file():
        raise ModelError(
            f"this installation has no embedded model {model or BUILTIN_NAME!r}: name a checkpoint or a hub id"
        )
    name = checkpoint.architecture(source, local=local)
    target = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    number_type = dtype or (torch.float32 if target.type == "cpu" else "auto")
    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False, "attn_implementation": "sdpa"}
    if device_map is not None:
        options["device_map"] = device_map
    open_parts = llava_original.load if name in llava_original.ARCHITECTURES else partial(checkpoint.load, name)
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
        name=BUILTIN_NAME if model is None else str(model),
        builtin=folder is not None,
        default_frames=whole("num_frames", frames) if frames else parts.family.default_frames,
        config=parts.pixels,
        template=parts.template,
    )
    return llm.limited(max_frame_pixels)


def _device(name: str | torch.device) -> torch.device:
    """The device; raises `InputError` if it is unavailable."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise InputError(f"cannot use the device {name!r} ({checkpoint.first_line(error)}): name another") from error
    return device
