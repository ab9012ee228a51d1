"""`tangovlm.stream`: a stream for a model and a method, by name or as objects."""

from pathlib import Path

import torch

from ..methods.build import Method
from ..pipeline.arguments import resolve_method
from ..pipeline.load import VideoLLM, resolve_model
from ..tower.changed import Changed
from .stream import Stream


def stream(
    model: str | Path | VideoLLM | None = None,
    *,
    method: str | Method = "tango",
    retention: float | None = None,
    max_tokens: int | None = None,
    half_life_s: float | None = None,
    fps: float = 1.0,
    chunk_frames: int = 32,
    encode: str | Changed = "all",
    max_frame_pixels: int | None = None,
    saliency: str | None = None,
    head_weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Stream:
    """Begin a stream of frames, about which questions may be asked at any time, in bounded memory.

    Parameters
    ----------
    model: None for the embedded model, a directory, a hub id, or the result of `load`.
    method, retention: of each chunk, see `tangovlm.ask`; one before the language model that does not read the question.
    max_tokens: the largest number of visual tokens that are held. Below it, nothing is reduced again. None for 4096, or
        three quarters of the model's context if that is less.
    half_life_s: after so many seconds, a part of the stream counts half as much when it is decided where to reduce;
        None treats all parts alike, whatever their age.
    fps: frames per second, of frames that come without times and of files.
    chunk_frames: frames that are pruned together, by the method's budget.
    encode: see `tangovlm.attach`; frames are compared within what is encoded at once.
    max_frame_pixels: see `VideoLLM.limited`.
    saliency, head_weights, device, dtype: see `load`; only for a model that is not loaded yet.

    Raises
    ------
    TangoError: see `load` and `tangovlm.method`; InputError for a value out of range, a method inside the language
        model or one that reads the question, or a model whose videos are not one piece of the prompt.

    Examples
    --------
    Frames as they come, here of a still picture:

    >>> import tangovlm, torch
    >>> watched = tangovlm.stream(max_tokens=128)
    >>> for _ in range(40):
    ...     watched.add(torch.zeros(3, 64, 64, dtype=torch.uint8))
    >>> answer = watched.ask("What happens?", max_new_tokens=1)
    >>> answer.frames, answer.tokens_before, answer.tokens_after
    (40, 2560, 128)

    A file:

    >>> watched = tangovlm.stream(fps=2)
    >>> watched.read("tangovlm-demo/clip.mp4")
    >>> watched.ask("What color is the bar?")
    'red'
    """
    pruner = resolve_method(method, retention)
    options = {"saliency": saliency, "head_weights": head_weights, "device": device, "dtype": dtype}
    llm = resolve_model(model, **options).limited(max_frame_pixels)
    return Stream(
        llm,
        pruner,
        max_tokens=max_tokens,
        half_life_s=half_life_s,
        fps=fps,
        chunk_frames=chunk_frames,
        encode=encode,
    )
