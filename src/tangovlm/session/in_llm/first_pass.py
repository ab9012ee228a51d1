"""Runs the first layers of a text model on groups of frames, to choose the tokens that the prefill reads.

Shape letters: B batch entries, Q positions of the inputs of the text model, R features of a video, N tokens of its
grid, M positions of a group's prompt, m visual tokens of a group.
"""

from collections.abc import Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...methods.in_llm.common.first_pass import FirstPassMethod
from ...methods.in_llm.common.view import PromptView, highest
from ...models.common.family import Family
from ...models.common.layout import TEXT, Grid
from ...models.common.transformers_compat import Arg, Signature
from ...tokens import Selection
from ..cache_state import LayerPositions
from ..lengths.context import grids_of_prompts, group_error, is_too_long, too_long_error
from .attention import LayerProbe
from .layer_access import check_text_model, compute_projections
from .masks import attention_mask


@dataclass(frozen=True, eq=False)
class Choice:
    """What the prefill reads of the video of a prompt.

    Parameters
    ----------
    dropped: ``(d,)`` int64 positions in the prompt, on the host.
    selection: the kept tokens, without features, on the host.
    newlines: of the video, which remain with the selection.
    groups: number of visual tokens of each group that was read in the first pass.
    """

    dropped: Tensor
    selection: Selection
    newlines: int
    groups: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Prompt:
    """A prompt with one video, on the host; `embeds` ``(Q, D)`` and `axis_ids` ``(3, Q)`` are on their device.

    Parameters
    ----------
    valid: ``(Q,)`` bool, False for padding.
    features: ``(R,)`` int64, ascending positions of the features of the video.
    tokens: ``(N,)`` int64, positions of the tokens of its grid, in raster order.
    trailing: number of text tokens after the video.
    """

    embeds: Tensor
    valid: Tensor
    features: Tensor
    tokens: Tensor
    trailing: int
    grid: Grid
    axis_ids: Tensor | None


class FirstPass:
    """The first pass of a method through a stock text model.

    Parameters
    ----------
    family: of the model.
    method: the method.
    layer: the layer whose attention scores the tokens; the ones before it are run.
    signature: of a layer's forward.

    Raises
    ------
    ModelError: see `Runner`.
    """

    def __init__(self, family: Family, method: FirstPassMethod, layer: int, signature: Signature) -> None:
        self._family = family
        self._decoder: Any = family.decoder
        self._method = method
        self._layer = layer
        self._signature = signature
        check_text_model(self._decoder)

    @torch.no_grad()
    def choose(
        self, embeds: Tensor, valid: Tensor, video: Tensor, grids: Sequence[Grid], axis_ids: Tensor | None, past: int
    ) -> dict[int, Choice]:
        """Choose the tokens of each batch entry that needs a first pass.

        Parameters
        ----------
        embeds: the input ``(B, Q, D)`` of the text model.
        valid: ``(B, Q)`` bool, False for padding.
        video: ``(B, Q)`` int64, see `FeatureLayout.video_numbers`.
        grids: of the videos of the call, in order.
        axis_ids: ``(P, B, Q)`` position ids of several axes, None for models with one axis.
        past: length of the cache.

        Raises
        ------
        InputError: several videos in such a prompt, one in a later turn on a cache, one without text after it, a prompt
            that exceeds the context of the model.
        """
        rows = torch.stack([valid.long(), video.to(valid.device)]).cpu()
        choices: dict[int, Choice] = {}
        for entry, (own, is_valid, numbers) in enumerate(zip(grids_of_prompts(rows[1], grids), *rows, strict=True)):
            if not own:
                continue
            is_valid = is_valid.bool()
            if not self._method.groups(sum(grid.frames for grid in own)):
                # The first layers of the prefill read the whole prompt.
                self._check_length(past + int(is_valid.sum()), int((numbers != TEXT).sum()), 0, own)
                continue
            if len(own) > 1:
                raise _unsupported(self._method, f"a prompt with {len(own)} videos")
            if past:
                raise _unsupported(self._method, "a video that follows earlier turns in a cache")
            features = (numbers != TEXT).nonzero().flatten()
            prompt = _Prompt(
                embeds[entry],
                is_valid,
                features,
                tokens=features[self._family.layout.grid_indices(own[0])],
                trailing=int(is_valid[int(features[-1]) + 1 :].sum()),
                grid=own[0],
                axis_ids=None if axis_ids is None else axis_ids[-3:, min(entry, axis_ids.shape[1] - 1)],
            )
            choices[entry] = self._choose(prompt)
        return choices

    def _choose(self, prompt: _Prompt) -> Choice:
        grid, layout = prompt.grid, self._family.layout
        groups = self._method.groups(grid.frames)
        by_frame = torch.arange(grid.tokens).view(grid.frames, -1)
        members = [by_frame[first::groups].flatten() for first in range(groups)]
        counts = self._method.counts([len(group) for group in members])
        chosen, read = [], []
        for group, count in zip(members, counts, strict=True):
            if 0 < count < len(group):
                # Hooks of this library and of transformers, which keep what layers compute, find their forward in the
                # context: in an empty one, they ignore this pass.
                scores = Context().run(self._scores, prompt, group)
                chosen.append(group[highest(scores, count).cpu()])
                read.append(len(group))
            else:
                chosen.append(group[:count])
        selection = _selection(torch.cat(chosen).sort().values, grid)
        kept = layout.kept_features(selection, grid)
        length, total = int(prompt.valid.sum()), len(prompt.features)
        self._check_length(length - total + int(kept.sum()), total, total - int(kept.sum()), [grid])
        return Choice(prompt.features[~kept], selection, layout.newlines(selection, grid), tuple(read))

    def _scores(self, prompt: _Prompt, group: Tensor) -> Tensor:
        """Scores ``(m,)`` of a group, whose tokens are ``(m,)`` ascending indices into the grid."""
        mask = prompt.valid.clone()
        mask[prompt.features] = self._family.layout.kept_features(_selection(group, prompt.grid), prompt.grid)
        index = mask.nonzero().flatten()
        if is_too_long(self._family, len(index)):
            raise group_error(self._method, len(group))
        visual = torch.searchsorted(index, prompt.tokens[group])
        device = prompt.embeds.device
        states = prompt.embeds[index.to(device)]
        ids = self._position_ids(prompt, group, index, visual)
        cos, sin = (table[0] for table in self._decoder.rotary_emb(states[None], ids.to(device)))
        states = self._run_layers(states, (cos, sin))
        layer = self._decoder.layers[self._layer]
        query, key = compute_projections(layer, states)
        probe = LayerProbe(query, key, cos, sin, layer.self_attn.scaling, lambda: None, self._decoder.norm)
        view = PromptView(states, visual.to(device), len(group), 1.0, probe, trailing=prompt.trailing)
        return self._method.scores(view)

    def _run_layers(self, states: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Hidden states ``(M, D)`` that enter the layer whose attention is read."""
        length, device = len(states), states.device
        positions = LayerPositions(torch.ones(1, length, dtype=torch.bool, device=device), has_padding=False)
        implementation = self._decoder.config._attn_implementation
        arguments = self._signature.values(
            {
                Arg.MASK: attention_mask(positions, length, length, implementation, states.dtype),
                Arg.ROTARY: tuple(table[None] for table in tables),
                Arg.POSITIONS: None,
            }
        )
        hidden = states[None]
        for layer in self._decoder.layers[: self._layer]:
            hidden = layer(hidden, **arguments)
        # Layers may be on several devices.
        return hidden[0].to(device)

    def _position_ids(self, prompt: _Prompt, group: Tensor, index: Tensor, visual: Tensor) -> Tensor:
        """Position ids ``(1, M)``, or ``(3, 1, M)`` of M-RoPE, as if the frames of the group were the whole video.

        Parameters
        ----------
        group: ``(m,)`` indices into the grid.
        index: ``(M,)`` positions in the prompt of the tokens of the group's prompt.
        visual: ``(m,)`` which of them are visual.
        """
        if prompt.axis_ids is None:
            return torch.arange(len(index))[None]
        tokens = prompt.tokens
        if int(tokens[-1] - tokens[0]) + 1 != len(prompt.features):
            raise _unsupported(self._method, f"a video in pieces in the prompts of {self._family.name}")
        whole = prompt.axis_ids.cpu()
        ids = whole[:, index].clone()
        # The first frames of the video are neighbours; their number is that of the group.
        ids[:, visual] = whole[:, tokens[: len(group)]]
        # The text goes on from the largest id of the video (Qwen-Omni), or from one that does not depend on the number
        # of frames, and then is not larger.
        after = int(visual[-1]) + 1
        if after < len(index):
            ids[:, after:] -= (ids[0, after] - ids[:, visual].max() - 1).clamp_min(0)
        return ids[:, None]

    def _check_length(self, length: int, visual: int, dropped: int, grids: Sequence[Grid]) -> None:
        if is_too_long(self._family, length):
            scale = 1.0 if dropped and self._method.absolute_count is None else None
            raise too_long_error(self._family, length, visual, visual - dropped, grids, scale)


def report_changes(choice: Choice, layer: int, layers: int, prune_ms: float) -> Mapping[str, Any]:
    """The fields of a `VideoReport` that change with a choice.

    Parameters
    ----------
    layer: number of layers that the first pass ran.
    layers: of the model.
    prune_ms: milliseconds of the first pass.
    """
    kept = choice.selection.indices.numel()
    return {
        "tokens_after": kept,
        "newlines_after": choice.newlines,
        "tokens_per_layer": (kept,) * layers,
        "first_pass_groups": choice.groups,
        "first_pass_layers": layer if choice.groups else 0,
        "timings_ms": {"prune": prune_ms},
    }


def _selection(indices: Tensor, grid: Grid) -> Selection:
    """The tokens of a grid with ascending indices ``(k,)``, without features."""
    sources = torch.full((grid.tokens,), -1)
    sources[indices] = torch.arange(len(indices))
    return Selection(indices, torch.empty(len(indices), 0), sources.view(*grid), (grid.frames,))


def _unsupported(method: FirstPassMethod, what: str) -> InputError:
    return InputError(
        f"{method.name} does not support {what} if a first pass over groups of frames is needed: raise "
        "frames_per_group to at least the number of frames, and do not set layer=0"
    )
