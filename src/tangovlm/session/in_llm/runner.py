"""Runs a method between the layers of a stock text model, using only hooks before its layers.

During prefill, the hook before a cut's layer calls the method and shortens the hidden states; from there on the hooks
pass masks and rotary tables of the shorter sequence to every layer. During decoding they pass masks only. The cache of
a layer therefore holds what the layer has read: deeper layers hold fewer positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...methods.in_llm.common.base import Cut, InLLMMethod
from ...methods.in_llm.common.view import PromptView
from ...models.common.transformers_compat import Arg, Signature
from ..cache_state import CacheState, LayerPositions, cached_length
from .attention import LayerProbe
from .forward_pass import ForwardPass
from .layer_access import (
    check_text_model,
    compute_projections,
    expand_tables,
    gather_tables,
    hooks_did_not_run,
    projection,
    recorded_projections,
)
from .masks import attention_mask
from .prompts import PromptTokens, PrunedPrompt, apply_step, count_per_video, keep_all, pad_left, split_batch


class Runner:
    """A method inside one text model.

    Parameters
    ----------
    decoder: a stock Qwen2, Qwen2.5-VL or Qwen3 text model, or one of the same structure.
    method: the method.
    cuts: at least one, see `InLLMMethod.cuts`.
    layer: signature of a layer's forward.
    running: returns the `ForwardPass` of the forward that runs in this thread, or None.
    record: whether to record which tokens remain after each cut.

    Raises
    ------
    ModelError: layers of another structure, with a sliding window, or with visual features added to their outputs.
    """

    def __init__(
        self,
        decoder: Any,
        method: InLLMMethod,
        cuts: Sequence[Cut],
        layer: Signature,
        running: Callable[[], ForwardPass | None],
        record: bool = False,
    ) -> None:
        self._decoder = decoder
        self._layers = list(decoder.layers)
        self._method = method
        self._cuts = {cut.layer: cut for cut in cuts}
        self._groups = {layer: number for number, layer in enumerate(self._cuts, start=1)}
        self._signature = layer
        self._running = running
        self._record = record
        check_text_model(decoder)

    def register_hooks(self) -> list[Any]:
        """Register the hooks and return their handles."""
        first = min(self._cuts)
        handles = [
            layer.register_forward_pre_hook(self._layer_hook(number), with_kwargs=True)
            for number, layer in enumerate(self._layers)
            if number >= first - 1
        ]
        if self._method.probe_layer == "before":
            for cut in self._cuts:
                attention = self._layers[cut - 1].self_attn
                handles += [
                    projection(attention, "q").register_forward_hook(self._recording_hook("queries")),
                    projection(attention, "k").register_forward_hook(self._recording_hook("keys")),
                ]
        return handles

    # --- around the text model ------------------------------------------------------------------------------------

    def begin(
        self, embeds: Tensor, mask: Tensor | None, cache: Any, state: CacheState | None, video: Tensor | None
    ) -> ForwardPass | None:
        """Begin a forward of the text model; None if there is nothing to do in it.

        Parameters
        ----------
        embeds: its input ``(B, q, D)``.
        mask: ``(B, past + q)`` or None.
        cache, state: the cache and its state, each None if there is none.
        video: ``(B, q)`` int64, see `PromptTokens`; None if all is text.

        Raises
        ------
        InputError: a cache with other batch entries, or whose layers were not all cut in the same way.
        """
        groups = () if state is None else state.layers[1:]
        batch, length = embeds.shape[:2]
        past = cached_length(cache, state)
        ones = torch.ones(batch, past + length, dtype=torch.bool, device=embeds.device)
        valid = ones if mask is None or mask.shape[1] != past + length else mask.to(embeds.device, torch.bool)
        prompts = None if video is None else self._begin_prompts(embeds, valid[:, past:], video)
        if prompts is None and not groups:
            return None
        if state is not None and groups:
            state.check_batch_size(batch)
            self._check_lengths(groups, cache)
        before = LayerPositions(valid[:, :past], mask is not None and past > 0)
        has_padding = mask is not None and not bool(valid[:, past:].all())
        run = ForwardPass(
            past=[before, *(groups or [before] * len(self._cuts))],
            first=LayerPositions(valid, before.has_padding or has_padding),
            new=valid[:, past:],
            has_padding=has_padding,
            prompts=prompts,
        )
        if prompts is not None:
            run.counts = [[count_per_video(prompt)] for prompt in prompts]
            run.remaining = [[] for _ in prompts]
        return run

    def end(self, run: ForwardPass) -> tuple[tuple[LayerPositions, ...], list[list[list[int]]]]:
        """End a forward of the text model.

        Returns
        -------
        What the groups after the cuts hold; and of each prompt and each of its videos, the visual tokens in each layer.

        Raises
        ------
        ModelError: the layers ran without their hooks.
        """
        if len(run.groups) < len(self._cuts):
            raise hooks_did_not_run()
        return tuple(run.groups), [
            [self._counts_per_layer(groups) for groups in zip(*prompt, strict=True)] for prompt in run.counts
        ]

    def _counts_per_layer(self, groups: Sequence[int]) -> list[int]:
        counts, group = [], 0
        for layer in range(len(self._layers)):
            group = self._groups.get(layer, group)
            counts.append(groups[group])
        return counts

    def _check_lengths(self, groups: Sequence[LayerPositions], cache: Any) -> None:
        """Check that layers hold as many positions as recorded: some ways to cut a cache skip the shorter layers."""
        if getattr(cache, "is_compileable", False):
            return
        for layer, positions in zip(self._cuts, groups, strict=True):
            length = int(cache.get_seq_length(layer))
            if length != positions.length:
                raise InputError(
                    f"layer {layer} of the cache holds {length} positions instead of {positions.length}: crop the "
                    "cache by a negative number, which removes as many positions from every layer"
                )

    def _begin_prompts(self, embeds: Tensor, valid: Tensor, video: Tensor) -> list[PromptTokens] | None:
        """The prompts of a batch, which the method has seen; None if no visual token is among them."""
        prompts = split_batch(valid, video.to(embeds.device), numbered=self._record)
        if not any(prompt.entered for prompt in prompts):
            return None
        return [self._begin_prompt(prompt, states) for prompt, states in zip(prompts, embeds, strict=True)]

    def _begin_prompt(self, prompt: PromptTokens, embeds: Tensor) -> PromptTokens:
        if not prompt.entered:
            return prompt
        states = embeds[prompt.index]
        text = states[int(prompt.visual[-1]) + 1 :]
        return replace(prompt, memo=self._method.prepare(states[prompt.visual], text))

    # --- hooks ----------------------------------------------------------------------------------------------------

    def _recording_hook(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
            run = self._running()
            if run is not None and run.prompts is not None:
                setattr(run, name, output.to(run.new.device))

        return hook

    def _layer_hook(self, number: int) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            run = self._running()
            if run is None:
                return None
            hidden, *rest = args
            if run.tables is None:
                run.tables = expand_tables(self._signature.get(Arg.ROTARY, args, kwargs), run.new)
            if number in self._cuts:
                # Layers may be on several devices: states are pruned on the device of the input embeddings.
                hidden = self._cut(run, number, hidden.to(run.new.device), kwargs)
            return self._signature.changed((hidden, *rest), kwargs, run.overrides)

        return hook

    @torch.no_grad()
    def _cut(self, run: ForwardPass, number: int, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Begin the next group of layers: prune the prompts, and make the arguments of its layers."""
        cache, group = self._signature.get(Arg.CACHE, (), kwargs), self._groups[number]
        assert run.tables is not None
        if run.prompts is not None:
            if self._method.probe_layer == "own" and run.past[group].length:
                # In the cut's own layer, positions of earlier turns are counted as they are after their cut.
                self._renumber(run, hidden, run.past[group].append(run.new, run.has_padding))
            pruned = [
                self._prune(run, prompt, entry, number, hidden[entry, prompt.index], cache)
                for entry, prompt in enumerate(run.prompts)
            ]
            hidden = self._replace_prompts(run, pruned)
            run.count_tokens(number)
        positions = run.past[group].append(run.new, run.has_padding)
        run.groups.append(positions)
        self._renumber(run, hidden, positions)
        width = positions.length
        if cache is not None and getattr(cache, "is_compileable", False):
            width = cache.layers[number].max_cache_len
        implementation = self._decoder.config._attn_implementation
        run.overrides = {
            Arg.MASK: attention_mask(positions, run.new.shape[1], width, implementation, hidden.dtype),
            Arg.ROTARY: run.tables,
            # Read by flash attention only, which takes gaps for the boundaries of packed prompts.
            Arg.POSITIONS: None,
        }
        return hidden

    def _renumber(self, run: ForwardPass, hidden: Tensor, positions: LayerPositions) -> None:
        if self._method.renumbers:
            ids = positions.last_position_ids(run.new.shape[1])
            if "mrope_section" in (self._decoder.config.rope_parameters or {}):
                ids = ids.expand(3, -1, -1)
            run.tables = self._decoder.rotary_emb(hidden, ids)

    def _prune(
        self, run: ForwardPass, prompt: PromptTokens, entry: int, number: int, states: Tensor, cache: Any
    ) -> PrunedPrompt:
        """Call the method with hidden states ``(N, D)`` of the prompt of a batch entry."""
        if not prompt.visual.numel():
            return keep_all(prompt, states)
        probe = self._probe(run, prompt, entry, number, states, cache)
        ratio = self._cuts[number].keep
        view = PromptView(states, prompt.visual, prompt.entered, ratio, probe, prompt.memo, prompt.trailing)
        return apply_step(prompt, states, self._method(view))

    def _replace_prompts(self, run: ForwardPass, pruned: list[PrunedPrompt]) -> Tensor:
        """Replace the prompts by the pruned ones; returns hidden states ``(B, M, D)``."""
        assert run.prompts is not None
        assert run.tables is not None
        sources = [prompt.index[new.source] for prompt, new in zip(run.prompts, pruned, strict=True)]
        index, run.new = pad_left(sources)
        run.tables = gather_tables(run.tables, index)
        hidden, _ = pad_left([new.hidden for new in pruned])
        width = index.shape[1]
        places = torch.arange(width, device=index.device)
        run.prompts = [replace(new.tokens, index=places[width - new.source.numel() :]) for new in pruned]
        run.has_padding = any(prompt.length < width for prompt in run.prompts)
        return hidden

    def _probe(
        self, run: ForwardPass, prompt: PromptTokens, entry: int, cut: int, states: Tensor, cache: Any
    ) -> LayerProbe:
        """Of the layer before the cut, whose projections were recorded, or of the cut's own."""
        own = self._method.probe_layer == "own"
        number = cut if own else cut - 1
        layer = self._layers[number]
        assert run.tables is not None
        cos, sin = (table[entry][prompt.index] for table in run.tables)
        if own:
            query, key = compute_projections(layer, states)
        else:
            query, key = recorded_projections(layer.self_attn, run.queries, run.keys, entry, prompt.index, states)

        def past() -> Tensor | None:
            valid = run.past[self._groups.get(number, len(run.groups))].valid[entry]
            if not valid.numel():
                return None
            keys: Tensor = cache.layers[number].keys[entry].to(valid.device)
            return keys[:, : valid.numel()][:, valid]

        def norm(hidden: Tensor) -> Tensor:
            normed: Tensor = self._decoder.norm(hidden)
            return normed.to(hidden.device)

        return LayerProbe(query, key, cos, sin, layer.self_attn.scaling, past, norm)
