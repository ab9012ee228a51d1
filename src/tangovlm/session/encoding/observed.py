"""One run of the vision encoder on a video, outside of calls of the model, observed for several kinds of saliency."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import ModelError
from ...models.common.family import Family
from ...models.common.layout import Clip, Prompt
from ...models.common.signals import Signals
from ...models.common.transformers_compat import Arg
from ...tokens import VideoTokens
from ...tower.changed import Changed
from ..session import hooks_advice
from .changed_frames import changed_frames


@dataclass(frozen=True, eq=False)
class ObservedVideo:
    """Output of the vision encoder for a video.

    Parameters
    ----------
    features: ``(R, D)``, those of the token grid and those beside it, such as newlines.
    clip: the video.
    signals: by kind of saliency.
    """

    features: Tensor
    clip: Clip
    signals: Mapping[str, Signals]

    def tokens(self, family: Family, kind: str, seconds: Tensor | None) -> VideoTokens:
        """The tokens with the signals of one kind of saliency.

        Parameters
        ----------
        seconds: ``(T,)``, see `Family.video_tokens`.

        Raises
        ------
        InputError: NaN or infinite features or signals.
        """
        return family.video_tokens(self.features, self.clip, self.signals[kind], seconds)


@torch.no_grad()
def observe_video(
    family: Family,
    pixels: Tensor,
    watched: Mapping[str, tuple[Family, frozenset[str]]],
    *,
    changed: Changed | None = None,
    chunk_frames: int | None = None,
) -> ObservedVideo:
    """Run the vision encoder on one video; only for families with `Family.in_one_piece`.

    Parameters
    ----------
    pixels: see `PromptFormat.pixels`.
    watched: kind of saliency to the model's family with that kind, and the signals that are read with it.
    changed: which frames are encoded; None for all.
    chunk_frames: see `tangovlm.attach`.

    Raises
    ------
    ModelError: the encoder did not provide a signal.
    InputError: the device is out of memory.
    """
    run, options = getattr(family.encoder, family.feature_method), {Arg.AS_DICT: True}
    clips, rows = changed_frames(changed, family, family.layout.clips(Prompt(), pixels), pixels)
    with ExitStack() as stack:
        signals = {
            kind: stack.enter_context(bound.signals.observe(needs, kind)) for kind, (bound, needs) in watched.items()
        }
        if rows is None:
            output: Any = family.encoding.encode(run, chunk_frames, pixels, **options)
        else:
            output = family.encoding.encode_some(run, chunk_frames, rows, pixels, **options)
    for kind, found in signals.items():
        for name in sorted(watched[kind][1] & {"saliency", "frame_features", "keys"}):
            if getattr(found, name) is None:
                raise ModelError(f"the vision encoder provided no {name}: {hooks_advice()}")
    if rows is not None:
        signals = {kind: found.of_rows(rows) for kind, found in signals.items()}
    (clip,) = clips
    return ObservedVideo(family.layout.features(output, clips)[0], clip, signals)
