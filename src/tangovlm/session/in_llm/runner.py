"""Runs a method between the layers of a stock text model, with hooks in front of its layers and nothing else.

While the prompt is read, the hook in front of a cut's layer asks the method and shortens the hidden states; from there
on the hooks hand every layer masks and rotary tables of the shorter sequence. While the answer is written they hand on
masks only. Every layer's cache so holds what the layer has seen, and is shorter the deeper it lies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, ModelError
from ...methods.in_llm.common.base import Cut, InLLMMethod, PromptView
from ...models.common.transformers_compat import Arg, Signature
from ..carried import carried, carry, check_rows
from .attention import LayerProbe
from .masks import Held, Memory, attention_mask
from .prompt_rows import Change, Row, change, pad_left, per_video, read_rows, untouched


@dataclass(eq=False)
class Pass:
    """One forward of the text model.

    Parameters
    ----------
    past: what the first layer and the groups held before.
    new: ``(B, q)`` bool, which of the positions that came with it are no padding; shorter behind a cut.
    padded: whether any is.
    rows: the prompts, None where there is nothing to prune.
    length: positions of the first layer when it is done.
    now: what the groups reached so far hold.
    overrides: keywords of the layers of the present group.
    tables: rotary tables ``(..., B, q, d)`` of the present group.
    queries, keys: of the layer that is looked at, before their rotation.
    counts: of each prompt, visual tokens of its videos in each group.
    """

    past: list[Held]
    new: Tensor
    padded: bool
    rows: list[Row] | None
    length: int
    now: list[Held] = field(default_factory=list)
    overrides: dict[str, Any] = field(default_factory=dict)
    tables: tuple[Tensor, Tensor] | None = None
    queries: Tensor | None = None
    keys: Tensor | None = None
    counts: list[list[list[int]]] = field(default_factory=list)


class Runner:
    """A method inside one text model.

    Parameters
    ----------
    decoder: a stock Qwen2, Qwen2.5-VL or Qwen3 text model, or one built like them.
    method: what prunes.
    cuts: where, see `InLLMMethod.cuts`; at least one.
    layer: signature of a layer's forward.
    running: gives what `begin` returned for the forward that runs in this thread, or None.

    Raises
    ------
    ModelError: layers of another build, or with a sliding window, or that have visual features added to them.
    """

    def __init__(
        self,
        decoder: Any,
        method: InLLMMethod,
        cuts: Sequence[Cut],
        layer: Signature,
        running: Callable[[], Pass | None],
    ) -> None:
        self._decoder = decoder
        self._layers = list(decoder.layers)
        self._method = method
        self._cuts = {cut.layer: cut for cut in cuts}
        self._groups = {layer: number for number, layer in enumerate(self._cuts, start=1)}
        self._of = layer
        self._running = running
        if hasattr(decoder, "_deepstack_process"):
            raise _refusal(f"knows no {type(decoder).__name__}, whose first layers get features of the tower too")
        for layer in self._layers:
            _check(layer)

    def hooks(self) -> list[Any]:
        """Put the hooks on; each has `remove`."""
        first = min(self._cuts)
        hooks = [
            layer.register_forward_pre_hook(self._before(number), with_kwargs=True)
            for number, layer in enumerate(self._layers)
            if number >= first - 1
        ]
        if self._method.looks_at == "before":
            for cut in self._cuts:
                attention = self._layers[cut - 1].self_attn
                hooks += [
                    _last(attention, "q").register_forward_hook(self._keep("queries")),
                    _last(attention, "k").register_forward_hook(self._keep("keys")),
                ]
        return hooks

    # --- around the text model ------------------------------------------------------------------------------------

    def begin(self, embeds: Tensor, mask: Tensor | None, cache: Any, video: Tensor | None) -> Pass | None:
        """In front of the text model: one forward of it, None where there is nothing to do.

        Parameters
        ----------
        embeds: ``(B, q, D)``, what it is handed.
        mask: ``(B, past + q)`` or None.
        cache: or None.
        video: ``(B, q)`` int64, which video of its prompt a token belongs to, -1 for text; None where all is text.
        """
        memory = None if cache is None else carried(cache, Memory)
        rows = None
        batch, length = embeds.shape[:2]
        past = 0 if cache is None else int(cache.get_seq_length()) if memory is None else memory.length
        ones = torch.ones(batch, past + length, dtype=torch.bool, device=embeds.device)
        valid = ones if mask is None or mask.shape[1] != past + length else mask.to(embeds.device, torch.bool)
        if video is not None:
            rows = [
                self._begun(row, states)
                for row, states in zip(read_rows(valid[:, past:], video.to(embeds.device)), embeds, strict=True)
            ]
            if not any(row.entered for row in rows):
                rows = None
        if rows is None and memory is None:
            return None
        if memory is not None:
            check_rows(memory, batch)
            self._check_lengths(memory, cache)
        old = Held(valid[:, :past], mask is not None and past > 0)
        groups = [old] * len(self._cuts) if memory is None else list(memory.groups)
        padded = mask is not None and not bool(valid[:, past:].all())
        run = Pass([old, *groups], valid[:, past:], padded, rows, past + length)
        if rows is not None:
            run.counts = [[per_video(row)] for row in rows]
        return run

    def end(self, run: Pass, cache: Any) -> list[list[list[int]]]:
        """Behind the text model: of each prompt and each of its videos, the visual tokens in each layer.

        Raises
        ------
        ModelError: the layers ran without the hooks on them.
        """
        if len(run.now) < len(self._cuts):
            raise _unheard()
        if cache is not None:
            carry(cache, Memory(tuple(run.now), run.length))
        return [[self._spread(groups) for groups in zip(*prompt, strict=True)] for prompt in run.counts]

    def _spread(self, groups: Sequence[int]) -> list[int]:
        """Counts of the groups as counts of the layers."""
        counts, group = [], 0
        for layer in range(len(self._layers)):
            group = self._groups.get(layer, group)
            counts.append(groups[group])
        return counts

    def _check_lengths(self, memory: Memory, cache: Any) -> None:
        """See that layers hold what they are remembered to hold: some ways to cut a cache spare the shorter ones."""
        if getattr(cache, "is_compileable", False):
            return
        for layer, held in zip(self._cuts, memory.groups, strict=True):
            if int(cache.get_seq_length(layer)) != held.mask.shape[1]:
                raise InputError(
                    f"layer {layer} of the cache holds {int(cache.get_seq_length(layer))} positions, but "
                    f"{held.mask.shape[1]} are remembered: cut it with a negative number, so many off every layer"
                )

    def _begun(self, row: Row, embeds: Tensor) -> Row:
        if not row.entered:
            return row
        states = embeds[row.index]
        text = states[int(row.visual[-1]) + 1 :]
        return Row(row.index, row.video, row.visual, row.entered, self._method.begin(states[row.visual], text))

    # --- in front of the layers -----------------------------------------------------------------------------------

    def _keep(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
            run = self._running()
            if run is not None and run.rows is not None:
                setattr(run, name, output.to(run.new.device))

        return hook

    def _before(self, number: int) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            run = self._running()
            if run is None:
                return None
            hidden, *rest = args
            if run.tables is None:
                run.tables = _for_rows(self._of.get(Arg.ROTARY, args, kwargs), run.new)
            if number in self._cuts:
                # The layers may lie on several devices: their states are pruned where the prompt was spliced.
                hidden = self._enter(run, number, hidden.to(run.new.device), kwargs)
            return self._of.changed((hidden, *rest), kwargs, run.overrides)

        return hook

    @torch.no_grad()
    def _enter(self, run: Pass, number: int, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Go over to the next group of layers: shorten the prompts, and make what its layers are handed."""
        cache, group = self._of.get(Arg.CACHE, (), kwargs), self._groups[number]
        assert run.tables is not None
        if run.rows is not None:
            if self._method.looks_at == "own" and run.past[group].mask.shape[1]:
                # The cut's own layer counts the positions of earlier turns behind their cut.
                self._renumber(run, hidden, run.past[group].followed_by(run.new, run.padded))
            changes = [self._changed(run, row, place, number, hidden, cache) for place, row in enumerate(run.rows)]
            hidden = self._shorten(run, changes)
        held = run.past[group].followed_by(run.new, run.padded)
        run.now.append(held)
        self._renumber(run, hidden, held)
        length = held.mask.shape[1]
        width = length
        if cache is not None and getattr(cache, "is_compileable", False):
            width = cache.layers[number].max_cache_len
        implementation = self._decoder.config._attn_implementation
        run.overrides = {
            Arg.MASK: attention_mask(held, run.new.shape[1], width, implementation, hidden.dtype),
            Arg.ROTARY: run.tables,
            # Read by nothing but flash attention, which takes gaps for the borders of packed prompts.
            Arg.POSITIONS: None,
        }
        return hidden

    def _renumber(self, run: Pass, hidden: Tensor, held: Held) -> None:
        if self._method.renumbers:
            places = held.positions(run.new.shape[1])
            if "mrope_section" in (self._decoder.config.rope_parameters or {}):
                places = places.expand(3, -1, -1)
            run.tables = self._decoder.rotary_emb(hidden, places)

    def _changed(self, run: Pass, row: Row, place: int, number: int, hidden: Tensor, cache: Any) -> Change:
        states = hidden[place, row.index]
        if not row.visual.numel():
            return untouched(row, states)
        probe = self._probe(run, row, place, number, states, cache)
        view = PromptView(states, row.visual, row.entered, self._cuts[number].keep, probe, row.memo)
        return change(row, states, self._method(view))

    def _shorten(self, run: Pass, changes: list[Change]) -> Tensor:
        """Put the changed prompts in place of the old ones; returns hidden states ``(B, M, D)``."""
        assert run.rows is not None
        assert run.tables is not None
        sources = [row.index[new.source] for row, new in zip(run.rows, changes, strict=True)]
        index, run.new = pad_left(sources)
        run.tables = _gathered(run.tables, index)
        hidden, _ = pad_left([new.hidden for new in changes])
        width = index.shape[1]
        places = torch.arange(width, device=index.device)
        run.rows = [
            Row(places[width - new.source.numel() :], new.row.video, new.row.visual, new.row.entered, new.row.memo)
            for new in changes
        ]
        run.padded = any(row.length < width for row in run.rows)
        for counts, row in zip(run.counts, run.rows, strict=True):
            counts.append(per_video(row, len(counts[0])))
        return hidden

    def _probe(self, run: Pass, row: Row, place: int, number: int, states: Tensor, cache: Any) -> LayerProbe:
        """At the layer before the cut, whose projections were caught, or at the cut's own."""
        own = self._method.looks_at == "own"
        number = number if own else number - 1
        layer = self._layers[number]
        attention = layer.self_attn
        assert run.tables is not None
        cos, sin = (table[place][row.index] for table in run.tables)

        def caught(made: Tensor | None) -> Tensor:
            if made is None:
                raise _unheard()
            return made

        def heads(made: Tensor) -> Tensor:
            return made.reshape(len(made), -1, attention.head_dim).transpose(0, 1).to(states.device)

        def query(places: Tensor) -> Tensor:
            if own:
                return heads(_made(attention, "q", layer.input_layernorm(states[places])))
            return heads(caught(run.queries)[place, row.index[places]])

        def key() -> Tensor:
            if own:
                return heads(_made(attention, "k", layer.input_layernorm(states)))
            return heads(caught(run.keys)[place, row.index])

        def past() -> Tensor | None:
            held = run.past[self._groups.get(number, len(run.now))].mask[place]
            if not held.numel():
                return None
            keys: Tensor = cache.layers[number].keys[place].to(held.device)
            return keys[:, : held.numel()][:, held]

        def norm(hidden: Tensor) -> Tensor:
            normed: Tensor = self._decoder.norm(hidden)
            return normed.to(hidden.device)

        return LayerProbe(query, key, cos, sin, attention.scaling, past, norm)


def _for_rows(tables: tuple[Tensor, Tensor], new: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary tables ``(1 or B, q, d)`` with all B rows, on the device of what is new ``(B, q)``."""
    cos, sin = (table.to(new.device).expand(len(new), -1, -1) for table in tables)
    return cos, sin


def _gathered(tables: tuple[Tensor, Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary tables ``(B, q, d)`` at ``(B, M)``."""
    cos, sin = (table.gather(1, index[..., None].expand(-1, -1, table.shape[-1])) for table in tables)
    return cos, sin


def _made(attention: Any, which: str, states: Tensor) -> Tensor:
    """Queries ("q") or keys ("k") of states ``(n, D)`` before their rotation, in heads where these are normed."""
    projected: Tensor = getattr(attention, f"{which}_proj")(states)
    norm = getattr(attention, f"{which}_norm", None)
    return projected if norm is None else norm(projected.view(len(states), -1, attention.head_dim))


def _last(attention: Any, which: str) -> nn.Module:
    """The module whose output is what `_made` returns."""
    norm: nn.Module | None = getattr(attention, f"{which}_norm", None)
    return getattr(attention, f"{which}_proj") if norm is None else norm


def _unheard() -> ModelError:
    return ModelError("the layers of the text model ran without the hooks on them: attach first, then torch.compile")


def _refusal(why: str) -> ModelError:
    return ModelError(f"pruning inside the model {why}: choose a method that prunes before the language model")


def _check(layer: Any) -> None:
    attention: Any = getattr(layer, "self_attn", None)
    parts = ("q_proj", "k_proj", "head_dim", "scaling")
    if not hasattr(layer, "input_layernorm") or not all(hasattr(attention, part) for part in parts):
        raise _refusal(f"needs layers built like Qwen2's, not {type(layer).__name__}")
    weight = getattr(getattr(attention, "q_norm", None), "weight", None)
    if hasattr(attention, "q_norm") and (weight is None or weight.numel() != attention.head_dim):
        raise _refusal(f"knows no {type(layer).__name__}, which does not norm the queries of each head by themselves")
    rope = getattr(getattr(attention, "config", None), "rope_parameters", None) or {}
    if hasattr(layer, "post_self_attn_layernorm") or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _refusal(f"knows no {type(layer).__name__}, which rotates other channels")
    if getattr(attention, "sliding_window", None) is not None:
        raise _refusal("needs layers that see everything, not a sliding window")
