"""Reference of pruning inside a text model: no hooks, no cache, full attention maps, whole sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ....kernels.dpc_knn.reference import dpc_knn_reference


@dataclass
class Scene:
    """The inputs of a cut for one prompt: all tensors end at its last token."""

    states: Tensor
    visual: list[int]
    entered: int
    ratio: float
    attention: Tensor
    keys: Tensor
    norm: Callable[[Tensor], Tensor]
    raters: list[int]
    trailing: int

    @property
    def keep(self) -> int:
        return max(1, math.floor(self.ratio * self.entered + 0.5 + 1e-9))


# A choice: kept positions, their values, and new states.
Choice = tuple[list[int], Tensor, Tensor]
Choose = Callable[[Scene], Choice]


def top(scores: Tensor, places: Sequence[int], keep: int) -> list[int]:
    return sorted(sorted(places, key=lambda place: (-float(scores[place]), place))[:keep])


def fastv(scene: Scene) -> Choice:
    kept = top(scene.attention[:, -1].mean(0), scene.visual, scene.keep)
    return kept, scene.states[kept], scene.states[:0]


def merging(scene: Scene, tango: bool) -> Choice:
    kept, values, none = fastv(scene)
    givers: list[list[int]] = [[] for _ in kept]
    values = values.clone()
    for place in scene.visual:
        if place not in kept:
            alike = torch.cosine_similarity(scene.states[place][None], scene.states[kept])
            givers[int(alike.argmax())].append(place)
    for slot, places in enumerate(givers):
        if tango:
            mean = torch.stack([scene.states[place] for place in [kept[slot], *places]]).mean(0)
            values[slot] = 0.6 * values[slot] + 0.4 * mean
        else:
            for place in places:
                values[slot] = (values[slot] + scene.states[place]) / 2
    return kept, values, none


def dart(scene: Scene) -> Choice:
    norms = scene.keys.abs().sum(dim=(0, 2))

    def largest(places: Sequence[int], count: int) -> list[int]:
        return sorted(places, key=lambda place: (-float(norms[place]), place))[:count]

    visual = largest(scene.visual, min(4, scene.keep))
    text = largest(range(scene.visual[-1] + 1, len(scene.states)), 4)
    normed = scene.norm(scene.states)
    kept, pool = list(visual), [place for place in scene.visual if place not in visual]
    share = (scene.keep - len(visual)) / len(visual + text)
    for number, pivot in enumerate(visual + text):
        alike = torch.cosine_similarity(normed[pivot][None], normed, dim=-1)
        count = math.floor((number + 1) * share + 0.5 + 1e-9) - math.floor(number * share + 0.5 + 1e-9)
        taken = sorted(pool, key=lambda place: (float(alike[place]), place))[:count]
        kept += taken
        pool = [place for place in pool if place not in taken]
    return sorted(kept), scene.states[sorted(kept)], scene.states[:0]


def sparsevlm(scene: Scene) -> Choice:
    after = scene.visual[-1] + 1
    rows = [after + rater for rater in scene.raters] or [len(scene.states) - 1]
    scores = scene.attention[:, rows].mean(dim=(0, 1))
    dropped = len(scene.visual) - scene.keep
    better = min(dropped, math.floor(0.3 * dropped + 1e-9) + 1)
    clusters = better // 10 + 1 if dropped else 0
    kept = top(scores, scene.visual, scene.keep - clusters)
    if not clusters:
        return kept, scene.states[kept], scene.states[:0]
    dropped = len(scene.visual) - len(kept)
    pool = top(scores, [p for p in scene.visual if p not in kept], min(dropped, math.floor(0.3 * dropped + 1e-9) + 1))
    points = scene.states[pool]
    scaled = (points / points.shape[1] ** 0.5).tolist()
    labels = torch.tensor(dpc_knn_reference(scaled, clusters, clusters, include_self=True)[2])
    new = torch.stack([points[labels == cluster].mean(0) for cluster in range(clusters)])
    return kept, scene.states[kept], new


def flexselect(scene: Scene) -> Choice:
    rows = scene.attention[:, len(scene.states) - scene.trailing :]
    kept = top(rows.flatten(0, 1).max(0).values, scene.visual, scene.keep)
    return kept, scene.states[kept], scene.states[:0]


def find_raters(visual: Tensor, text: Tensor) -> list[int]:
    columns = (visual @ text.T).softmax(-1).mean(0)
    return [place for place, value in enumerate(columns) if value > columns.mean()]


CHOICES: dict[str, Choose] = {
    "fastv": fastv,
    "tango-fastv": lambda scene: merging(scene, tango=True),
    "holitom-merge": lambda scene: merging(scene, tango=False),
    "dart": dart,
    "pyramiddrop": fastv,
    "sparsevlm": sparsevlm,
    "flexselect": flexselect,
}


@dataclass
class Prompt:
    """The prompt of one turn: its end in the whole sequence, its visual positions, and its text after the video."""

    end: int
    visual: list[int]
    trailing: int = 0


@dataclass
class Reference:
    """A text model that prunes at `cuts` (layer, ratio)."""

    lm: Any
    name: str
    cuts: dict[int, float]
    lengths: list[int] = field(default_factory=list)

    def rotate(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = states.shape[-1] // 2
        return states * cos + torch.cat([-states[..., half:], states[..., :half]], dim=-1) * sin

    def attend(self, layer: Any, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output of the attention, its map (A, N, N), its keys."""
        attention = layer.self_attn
        cos, sin = (table[0] for table in self.lm.rotary_emb(states[None], positions[..., None, :]))
        normed = layer.input_layernorm(states)
        size = attention.head_dim

        def heads(name: str) -> Tensor:
            made = getattr(attention, f"{name}_proj")(normed).unflatten(-1, (-1, size)).transpose(0, 1)
            if hasattr(attention, f"{name}_norm"):
                norm = getattr(attention, f"{name}_norm")
                made = norm.weight * made / (made.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
            return made

        query, keys = (self.rotate(heads(name), cos, sin) for name in "qk")
        repeats = len(query) // len(keys)
        logits = query @ keys.repeat_interleave(repeats, 0).transpose(1, 2) / size**0.5
        future = torch.ones(len(states), len(states), dtype=torch.bool).triu(1)
        weights = logits.masked_fill(future, float("-inf")).softmax(-1)
        mixed = weights @ heads("v").repeat_interleave(repeats, 0)
        return attention.o_proj(mixed.transpose(0, 1).flatten(1)), weights, keys

    @torch.no_grad()
    def states(self, embeds: Tensor, positions: Tensor, prompts: list[Prompt]) -> Tensor:
        """Final hidden states (N', D) of a sequence with positions (..., N); `lengths` are the tokens of each layer."""
        states, self.lengths = embeds, []
        entered = [len(prompt.visual) for prompt in prompts]
        raters = [find_raters(embeds[p.visual], embeds[p.visual[-1] + 1 : p.end]) if p.visual else [] for p in prompts]
        before: tuple[Tensor, Tensor, Tensor] | None = None
        for number, layer in enumerate(self.lm.layers):
            if number in self.cuts:
                for turn in range(len(prompts)):
                    prompt, own = prompts[turn], self.name in ("pyramiddrop", "flexselect")
                    if not prompt.visual:
                        continue
                    _, weights, keys = self.attend(layer, states, positions) if own or before is None else before
                    scene = Scene(
                        states[: prompt.end],
                        prompt.visual,
                        entered[turn],
                        self.cuts[number],
                        weights[:, : prompt.end, : prompt.end],
                        keys[:, : prompt.end],
                        self.lm.norm,
                        raters[turn],
                        prompt.trailing,
                    )
                    kept, values, new = CHOICES[self.name](scene)
                    order, fresh = [], {}
                    for place in range(len(states)):
                        if place in kept or place not in prompt.visual:
                            order.append(place)
                        if place == kept[-1]:
                            fresh = {len(order) + extra: state for extra, state in enumerate(new)}
                            order += [place] * len(new)
                    states = states.clone()
                    states[kept] = values
                    states = states[order]
                    for place, state in fresh.items():
                        states[place] = state
                    positions = positions[..., order]
                    if self.name in ("pyramiddrop", "sparsevlm"):
                        positions = torch.arange(len(order)).expand(positions.shape)
                    if before is not None:
                        before = (before[0], before[1][:, order][:, :, order], before[2][:, order])
                    moved = [place for place, old in enumerate(order) if old in kept]
                    prompts = [self.moved(p, order, turn, place, moved) for place, p in enumerate(prompts)]
            before = self.attend(layer, states, positions)
            states = states + before[0]
            states = states + layer.mlp(layer.post_attention_layernorm(states))
            self.lengths.append(len(states))
        return self.lm.norm(states)

    def moved(self, prompt: Prompt, order: list[int], turn: int, place: int, visual: list[int]) -> Prompt:
        end = sum(old < prompt.end for old in order)
        if place == turn:
            return Prompt(end, visual, prompt.trailing)
        return Prompt(end, [new for new, old in enumerate(order) if old in prompt.visual], prompt.trailing)


def greedy(
    reference: Reference,
    head: Any,
    table: Tensor,
    embeds: Tensor,
    visual: list[int],
    new: int,
    start: Any = None,
    trailing: int = 0,
) -> tuple[list[int], Tensor, list[int]]:
    """Tokens, the first step's logits, and the number of tokens in each layer after the prompt.

    The prompt has `trailing` text tokens after its last video.
    """
    prompts = [Prompt(len(embeds), visual, trailing)]
    positions = torch.arange(len(embeds)) if start is None else start
    answer, first, lengths = [], None, []
    for _ in range(new):
        with torch.no_grad():
            logits = head(reference.states(embeds, positions, prompts)[-1])
        if first is None:
            first, lengths = logits, reference.lengths
        answer.append(int(logits.argmax()))
        embeds = torch.cat([embeds, table[answer[-1]][None]])
        positions = torch.cat([positions, positions[..., -1:].max() + torch.ones_like(positions[..., -1:])], dim=-1)
    assert first is not None
    return answer, first, lengths
