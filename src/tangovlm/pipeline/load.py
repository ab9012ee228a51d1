"""Load a checkpoint: a model with its tokenizer and processor."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ..checkpoints import checkpoint, hub, llava_original
from ..errors import InputError, ModelError, TangoError
from ..inputs.pixels import whole
from ..methods.build import Method
from ..session.records import Recording
from ..tower.changed import Changed
from ..video import Frames, FrameSampling
from ..video.input import VideoSource
from ..video.input.spool import reads_streams
from ..video.sample import Seek
from .encoded.encoded_clip import EncodedClip
from .encoded.encoded_clip import encode as encode_clip
from .frame_source import Progress
from .loaded import LoadedModel

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
class VideoLLM(LoadedModel):
    """A loaded model, which can encode videos; see `LoadedModel`."""

    @reads_streams("video")
    def encode(
        self,
        video: VideoSource | Frames,
        *,
        method: str | Method = "tango",
        retention: float | None = None,
        questions: Sequence[str] = (),
        frames: int | FrameSampling | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        stream: int | None = None,
        seek: Seek | None = None,
        progress: Progress | None = None,
        record: bool | Recording = False,
        positions: str | None = None,
        chunk_frames: int | None = None,
        max_frame_pixels: int | None = None,
        newlines: str = "kept",
        encode: str | Changed = "all",
    ) -> EncodedClip:
        """Decode, encode and prune a video once, for many questions.

        Parameters
        ----------
        video, method, retention, frames, fps, max_frames, start_s, end_s, stream, seek, record, positions,
            chunk_frames, max_frame_pixels, newlines, encode: see `tangovlm.ask`.
        questions: that will be asked; if one does not fit the context of the model, this is said before the video is
            encoded.
        progress: called with a stage ("decode", "encode"), the number of steps done, and their total.

        Raises
        ------
        TangoError: see `tangovlm.ask`.

        Examples
        --------
        >>> import torch
        >>> pixels = torch.zeros(8, 3, 64, 64, dtype=torch.uint8)
        >>> frames = Frames(pixels, torch.arange(8, dtype=torch.float64), fps=1.0, duration_s=8.0)
        >>> clip = load().encode(frames, retention=0.1)
        >>> clip.ask("What happens?", max_new_tokens=1).tokens_after
        51
        >>> clip.with_method("topk", retention=0.5).ask("What happens?", max_new_tokens=1).tokens_after
        256
        """
        sampling = FrameSampling.of(
            frames, fps=fps, max_frames=max_frames, start_s=start_s, end_s=end_s, stream=stream, seek=seek
        )
        return encode_clip(
            self,
            video,
            method=method,
            retention=retention,
            questions=questions,
            frames=sampling,
            progress=progress,
            record=record,
            positions=positions,
            chunk_frames=chunk_frames,
            max_frame_pixels=max_frame_pixels,
            newlines=newlines,
            encode=encode,
        )


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
    weights: bool = True,
) -> VideoLLM:
    """Load a checkpoint: safetensors only, no remote code, SDPA attention.

    If the hub cannot be reached, files that were downloaded before are used.

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
    weights: False reads the config and the tokenizer only, see `tangovlm.pipeline.dry_run`: the model cannot run. Its
        dtype is that of a model on `device`.

    Raises
    ------
    ModelError: a missing or incomplete checkpoint, or an unsupported architecture.
    InputError: an unavailable device, both a device and a device map; see `VideoLLM.limited`.

    Examples
    --------
    >>> import tangovlm
    >>> llm = tangovlm.load()
    >>> llm.name, llm.builtin, llm.default_frames
    ('tangovlm-tiny', True, 16)

    One encoding of the clip that `tangovlm demo` writes, for many questions:

    >>> clip = llm.encode("tangovlm-demo/clip.mp4", retention=0.1)
    >>> clip.ask("What color is the bar?"), clip.ask("How many squares are there?")
    ('red', 'two')
    """
    if device is not None and device_map is not None:
        raise InputError("both a device and a device_map are given: leave one of them out")
    folder = embedded_folder(model)
    source, local = checkpoint.located(folder or str(model))
    if folder is not None and not (folder / "config.json").is_file():
        raise ModelError(
            f"this installation has no embedded model {model or BUILTIN_NAME!r}: name a checkpoint or a hub id"
        )
    reachable = local or hub.reachable()
    name = checkpoint.architecture(source, local=local, reachable=reachable)
    target = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    number_type = dtype or (torch.float32 if target.type == "cpu" else "auto")
    options: dict[str, Any] = {"trust_remote_code": False, "attn_implementation": "sdpa"}
    options["local_files_only"] = local or not reachable
    if device_map is not None:
        options["device_map"] = device_map
    if not weights:
        options["weights"] = False
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
        model=(parts.model if device_map is not None or not weights else parts.model.to(target)).eval(),
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


def resolve_model(model: str | Path | VideoLLM | None, **options: Any) -> VideoLLM:
    """A loaded model unchanged, or one that is loaded with these options of `load`; None leaves an option out.

    Raises
    ------
    InputError: an option for a model that is loaded already.
    TangoError: see `load`.
    """
    if not isinstance(model, VideoLLM):
        return load(model, **options)
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{name} is given, but the model is loaded already: give it to tangovlm.load")
    return model
