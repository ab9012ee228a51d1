"""The prompts of a batch between the layers: token positions on the device, their numbers on the host."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...methods.in_llm.common.view import LayerSelection
from ...models.common.layout import TEXT


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """The tokens of one prompt.

    Parameters
    ----------
    index: ``(N,)`` int64, their positions in the padded batch, ascending.
    video: ``(N,)`` int64, the video of the prompt that each belongs to; `TEXT`, or `OFF_GRID` for its other features.
    visual: ``(n,)`` int64, which of the N are visual.
    entered: number of visual tokens that entered the language model.
    memo: what the method's `begin` returned for this prompt.
    trailing: number of text tokens after the last feature of a video.
    numbers: ``(N,)`` int64, number of each visual token among those of its video that entered the language model; -1
        for all others and for tokens that a method added. None unless requested.
    """

    index: Tensor
    video: Tensor
    visual: Tensor
    entered: int
    memo: Tensor | None = None
    trailing: int = 0
    numbers: Tensor | None = None

    @property
    def length(self) -> int:
        """N."""
        return self.index.numel()


def split_batch(valid: Tensor, video: Tensor, *, numbered: bool = False) -> list[PromptTokens]:
    """The prompts of a batch.

    Parameters
    ----------
    valid: ``(B, M)`` bool, False for padding.
    video: ``(B, M)`` int64, see `PromptTokens`.
    numbered: whether `PromptTokens.numbers` is wanted.
    """
    device = valid.device
    prompts = []
    # One transfer for the whole batch; everything below is computed on the host.
    for is_valid, of_video in zip(*torch.stack([valid.long(), video]).cpu(), strict=True):
        index = is_valid.nonzero().flatten()
        own = of_video[index]
        visual = (own >= 0).nonzero().flatten()
        features = (own != TEXT).nonzero().flatten()
        trailing = own.numel() - 1 - int(features[-1]) if features.numel() else 0
        numbers = _numbers(own).to(device) if numbered else None
        prompts.append(
            PromptTokens(
                index.to(device),
                own.to(device),
                visual.to(device),
                entered=visual.numel(),
                trailing=trailing,
                numbers=numbers,
            )
        )
    return prompts


def _numbers(video: Tensor) -> Tensor:
    numbers = torch.full_like(video, -1)
    for each in range(int(video.max()) + 1 if video.numel() else 0):
        own = video == each
        numbers[own] = torch.arange(int(own.sum()))
    return numbers


def count_per_video(prompt: PromptTokens, videos: int | None = None) -> list[int]:
    """Visual tokens of each video of a prompt; `videos` is the number of videos, None to read it from the tokens."""
    if videos == 1:
        return [prompt.visual.numel()]
    counts: list[int] = torch.bincount(prompt.video[prompt.visual], minlength=videos or 0).tolist()
    return counts


class Remaining(NamedTuple):
    """The tokens of a video that enter a layer.

    Parameters
    ----------
    layer: the layer.
    numbers: ``(k,)`` int64 on the host, ascending, which of the tokens of the video that entered the language model.
    added: number of further tokens, which a method made from others.
    """

    layer: int
    numbers: Tensor
    added: int


def remaining_per_video(prompt: PromptTokens, videos: int, layer: int) -> list[Remaining]:
    """What is left of each video of a prompt with `numbers` before a layer."""
    assert prompt.numbers is not None
    own, numbers = torch.stack([prompt.video[prompt.visual], prompt.numbers[prompt.visual]]).cpu()
    of_video = [numbers[own == video] for video in range(videos)]
    return [Remaining(layer, each[each >= 0], int((each < 0).sum())) for each in of_video]


@dataclass(frozen=True, eq=False)
class PrunedPrompt:
    """A prompt after a cut.

    Parameters
    ----------
    tokens: after the cut; their `index` is still that before it.
    source: ``(N',)`` int64, the old token of each new one; a token that a method adds has that of the last kept one.
    hidden: ``(N', D)`` hidden states.
    """

    tokens: PromptTokens
    source: Tensor
    hidden: Tensor


def apply_step(prompt: PromptTokens, hidden: Tensor, step: LayerSelection) -> PrunedPrompt:
    """Replace the visual tokens of a prompt with hidden states ``(N, D)`` by those that a method keeps."""
    kept = prompt.visual[step.indices]
    added = step.values.shape[0] - kept.numel()
    is_visual = torch.zeros(prompt.length, dtype=torch.bool, device=hidden.device)
    is_visual[prompt.visual] = True
    text = _true_indices(~is_visual, prompt.length - prompt.visual.numel())
    sources = torch.cat([text, kept, kept[-1:].expand(added)])
    states = torch.cat([hidden[text], step.values])
    # Stable, so that added tokens come after the kept one whose position they share.
    order = sources.argsort(stable=True)
    source = sources[order]
    visual = _true_indices(order >= text.numel(), step.values.shape[0])
    numbers = prompt.numbers
    if numbers is not None:
        numbers = numbers[source].masked_fill(order >= prompt.length - prompt.visual.numel() + kept.numel(), -1)
    tokens = replace(prompt, video=prompt.video[source], visual=visual, numbers=numbers)
    return PrunedPrompt(tokens, source, states[order])


def _true_indices(mask: Tensor, count: int) -> Tensor:
    """Ascending indices of the `count` true values of a mask ``(n,)``; a known count saves a synchronization."""
    return (~mask).long().argsort(stable=True)[:count]


def keep_all(prompt: PromptTokens, hidden: Tensor) -> PrunedPrompt:
    """A prompt that a cut does not change."""
    return PrunedPrompt(prompt, torch.arange(prompt.length, device=hidden.device), hidden)


def pad_left(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Tensors ``(N_b, ...)`` as one ``(B, M, ...)`` with zeros on the left, and ``(B, M)`` bool, False for padding."""
    longest = max(part.shape[0] for part in parts)
    padded = parts[0].new_zeros(len(parts), longest, *parts[0].shape[1:])
    valid = torch.zeros(len(parts), longest, dtype=torch.bool, device=parts[0].device)
    for number, part in enumerate(parts):
        padded[number, longest - part.shape[0] :] = part
        valid[number, longest - part.shape[0] :] = True
    return padded, valid
