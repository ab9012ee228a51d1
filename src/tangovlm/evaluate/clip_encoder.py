"""One run of the vision encoder per clip, with the signals of several methods, and what each method keeps of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tangovlm.methods.common.selection import keep_all
from tangovlm.models.common.family import Family
from tangovlm.pipeline.load import VideoLLM
from tangovlm.session.attach import attach_family
from tangovlm.session.encoding.observed import observe_video
from tangovlm.tokens import Selection, VideoTokens
from tangovlm.tower.changed import Changed

from .runs import SALIENCIES, Run


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """Output of the vision encoder for a clip.

    Parameters
    ----------
    features: (N, D), the features of the token grid and of the tokens that follow it, such as newlines.
    tokens: by kind of saliency, each with all requested signals.
    """

    features: Tensor
    tokens: Mapping[str, VideoTokens]


@dataclass(frozen=True, eq=False)
class PrunedVideo:
    """The part of a prompt that stands for a video, after pruning.

    Parameters
    ----------
    features: (M, D), the kept tokens and the tokens that follow the grid.
    positions: (M,), relative to the first position of the video.
    end: the first position after the video.
    """

    features: Tensor
    positions: Tensor
    end: int


class ClipEncoder:
    """The vision encoder of a model, observed for several kinds of saliency at once."""

    def __init__(self, llm: VideoLLM) -> None:
        self.llm = llm
        family = llm.family
        self._families: dict[str, Family] = {
            kind: type(family)(llm.model, saliency=kind, head_weights=family.head_weights) for kind in SALIENCIES
        }

    def family(self, kind: str) -> Family:
        """The model's family with this kind of saliency; `check` refuses a kind that the model does not provide."""
        return self._families[kind]

    def check(self, runs: Iterable[Run]) -> None:
        """Check that every method fits the model, before anything is computed.

        Raises
        ------
        TangoError: a signal that the model does not provide, or a retention out of reach; see `attach`.
        """
        for run in runs:
            family = self.family(run.saliency)
            with attach_family(family, run.pruner, positions=None if family.keeps_positions else run.positions):
                pass

    def readable(self, run: Run) -> frozenset[str]:
        """The signals that a run reads with this model."""
        return frozenset() if run.unpruned else self.family(run.saliency).signals.readable(run.pruner)

    def pixels(self, frames: Tensor) -> Tensor:
        """Model inputs for uint8 frames."""
        return self.llm.family.prompt.pixels(frames.to(self.llm.family.device), self.llm.config)

    def encode(
        self, pixels: Tensor, seconds: Tensor, needs: Mapping[str, frozenset[str]], changed: Changed | None = None
    ) -> EncodedClip:
        """Run the vision encoder once.

        Parameters
        ----------
        needs: kind of saliency to the signals that are read with it.
        changed: which frames are encoded; None for all.
        """
        watched = {kind: (self.family(kind), needed) for kind, needed in needs.items()}
        video = observe_video(self.llm.family, pixels, watched, changed=changed, chunk_frames=len(seconds))
        tokens = {kind: video.tokens(self.family(kind), kind, seconds) for kind in needs}
        return EncodedClip(video.features, tokens)


def select(run: Run, encoded: EncodedClip) -> Selection:
    """The selection of a run. The method receives only the signals that it declares, as within `attach`."""
    tokens = encoded.tokens[run.saliency]
    if run.unpruned:
        return keep_all(tokens, (tokens.frames,))
    declared = replace(
        tokens,
        saliency=tokens.saliency if "saliency" in run.needs else None,
        frame_features=tokens.frame_features if "frame_features" in run.needs else None,
        keys=tokens.keys if "keys" in run.needs else None,
    )
    return run.pruner(declared)


def pruned_video(encoded: EncodedClip, selection: Selection, positions: str) -> PrunedVideo:
    """The kept tokens and the tokens that follow the grid.

    Parameters
    ----------
    positions: "contiguous" or "original", see `tangovlm.attach`.
    """
    count = selection.sources.numel()
    rest = encoded.features[count:]
    features = torch.cat([selection.features.to(rest.dtype), rest])
    if positions == "original":
        after = torch.arange(count, len(encoded.features), device=features.device)
        return PrunedVideo(features, torch.cat([selection.indices, after]), len(encoded.features))
    return PrunedVideo(features, torch.arange(len(features), device=features.device), len(features))
