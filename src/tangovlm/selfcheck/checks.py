"""Checks of a family on the installed transformers, run on the family's twin: one method for each check.

Each check uses an attached twin as a user would, and compares the output with the twin's reference, which uses neither
hooks nor a cache. A check returns nothing; it raises `Difference`, or an error of stock code, if it fails.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import budget, registry
from ..methods import build
from ..models.common.family import Family
from ..models.common.transformers_compat import Arg
from ..tokens import Selection, VideoTokens
from .twins.common.base import Twin
from .twins.common.groups import choose_in_groups
from .twins.common.inside import CHOICES
from .twins.common.norms import Norms
from .twins.common.parts import PromptParts, RandomWords, TokenIds, Video

Attach = Callable[..., AbstractContextManager[Any]]
"""The type of `tangovlm.attach`, which this layer cannot import."""
Check = Callable[[], None]

NEW, FRAMES = 4, 4
"""Number of generated tokens, and of frames of a video."""
TOLERANCE = 1e-4
"""Largest difference of two logits; logits are of the order of 1."""
CLIP = Video(FRAMES, 2)
ONE: PromptParts = (RandomWords(3, 1), CLIP, RandomWords(5, 3))
OTHER: PromptParts = (RandomWords(7, 4), Video(FRAMES, 5), RandomWords(4, 6))
TEXT: PromptParts = (RandomWords(6, 7),)
QUESTION = RandomWords(5, 31)
INSIDE = tuple(CHOICES)
"""Methods inside the language model that have a reference."""


class Difference(Exception):  # noqa: N818
    """An output differs from the expected one.

    Parameters
    ----------
    what: the quantity that is compared.
    expected, actual: its values, or short descriptions of them.
    """

    def __init__(self, what: str, expected: object, actual: object) -> None:
        super().__init__(f"{what}: expected {expected}, got {actual}")


@dataclass(frozen=True)
class Recorder:
    """A method that records its inputs, with the given signals."""

    needs: frozenset[str]
    retention: float = 0.5
    tokens: list[VideoTokens] = field(default_factory=list)
    name: ClassVar[str] = "recorder"
    stage: ClassVar[str] = "pre-llm"

    def __call__(self, tokens: VideoTokens) -> Selection:
        self.tokens.append(tokens)
        return Norms(self.retention)(tokens)


class Checks:
    """The checks of one twin.

    Parameters
    ----------
    attach: `tangovlm.attach`.
    """

    def __init__(self, twin: Twin, attach: Attach) -> None:
        self.twin = twin
        self.family: type[Family] = registry.family_for(twin.model)
        self.pruner = Norms()
        self._attach = partial(attach, twin.model, timestamps=torch.arange(FRAMES, dtype=torch.float64))
        self._references: dict[tuple[PromptParts, bool], tuple[list[int], Tensor]] = {}

    def all(self, inside: Sequence[str] = INSIDE) -> dict[str, Check]:
        """The checks that apply to the family, by name, in the order in which to run them.

        Parameters
        ----------
        inside: methods of `INSIDE`; skipped if the family does not support pruning inside the model.
        """
        supported = self.family.tested - self.twin.broken_uses
        checks: dict[str, Check] = {
            "prefill": self.prefill,
            "cache": self.cache,
            "grid": self.grid,
            "position ids": self.position_ids,
        }
        if not self.family.keeps_positions:
            checks["original positions"] = self.original_positions
        if "batch" in supported:
            checks["padded batch"] = self.padded_batch
        if "multi-turn" in supported:
            checks |= {"loop by hand": self.loop_by_hand, "second turn": self.second_turn}
        if "pruning inside" in supported:
            checks |= {name: partial(self.inside, name) for name in inside}
            if "flexselect" in inside:
                checks["flexselect in groups"] = self.first_pass
        return checks

    # --- the checks -------------------------------------------------------------------------------------------------

    def prefill(self) -> None:
        """Greedy tokens of one prompt, the logits of the first, and the counts in the report."""
        _, session = self._single
        tokens = self.twin.encode_part(CLIP, None).grid_tokens
        counts = [(video.tokens_before, video.tokens_after) for video in session.report.videos]
        _equal("visual tokens before and after", [(tokens, budget.count(self.pruner.retention, tokens))], counts)

    def cache(self) -> None:
        """The length of the cache: the pruned prompt, and all generated tokens but the last."""
        (cache,) = _cache(self._single[0]).values()
        _equal("length of the cache", self.twin.length(ONE, self.pruner) + NEW - 1, int(cache.get_seq_length()))

    def padded_batch(self) -> None:
        """Prompts of different lengths, one of them without a video."""
        self._answers([ONE, OTHER, TEXT])

    def position_ids(self) -> None:
        """The text model uses position ids, each axis of them: its output changes if they have a gap."""
        ids = torch.arange(QUESTION.count)
        ids = ids.expand(3, -1) if self.family.keeps_positions else ids[None]
        gap = torch.zeros_like(ids)
        gap[:, QUESTION.count // 2 :] = 50
        for axis in range(len(ids)):
            moved = ids + gap * (torch.arange(len(ids)) == axis)[:, None]
            states = [self.twin.at_positions(QUESTION, each.squeeze(0)) for each in (ids, moved)]
            change = float((states[0] - states[1]).abs().max())
            if not change > TOLERANCE:
                raise Difference("the text model with a gap in position ids", "another output", "the same")

    def original_positions(self) -> None:
        """Kept tokens with the position ids of the unpruned prompt."""
        self._answers([ONE, OTHER], positions="original")

    @torch.no_grad()
    def loop_by_hand(self) -> None:
        """`model(...)` instead of `generate`: the prompt, then one token at a time with the returned cache."""
        twin, tokens = self.twin, list[int]()
        inputs, length = twin.inputs([ONE]), twin.length(ONE, self.pruner)
        with self._attach(self.pruner):
            output = twin.model(**inputs, **{Arg.USE_CACHE: True})
            _equal("positions of the logits", length, output.logits.shape[1])
            for _ in range(NEW):
                tokens.append(int(output.logits[0, -1].argmax()))
                output = twin.model(**twin.next_token(tokens[-1]), **_cache(output))
        _equal("tokens", self._reference(ONE)[0], tokens)

    def second_turn(self) -> None:
        """A second question on the cache of two prompts and their answers."""
        twin, rows = self.twin, [ONE, OTHER]
        inputs = twin.inputs(rows)
        options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
        with self._attach(self.pruner):
            first = twin.model.generate(**inputs, **options, return_dict_in_generate=True)
            again = twin.next_turn(inputs, first.sequences, QUESTION)
            second = twin.model.generate(**again, **options, **_cache(first))
        for row, answer, tokens in zip(rows, first.sequences[:, -NEW:], second[:, -NEW:], strict=True):
            expected, _ = self._reference((*row, TokenIds(tuple(answer.tolist())), QUESTION))
            _equal("tokens of the second answer", expected, tokens.tolist())

    def inside(self, name: str) -> None:
        """A method inside the language model, in a padded batch."""
        pruner, rows = build.method(name, retention=0.75), [ONE, OTHER]
        output, _ = self._generate(rows, pruner)
        # Two tokens only, because the reference is slow.
        expected = [self.twin.inside(row, pruner, 2) for row in rows]
        _close("first logits", torch.stack([first for _, first, _ in expected]), output.logits[0])
        _equal("tokens", [tokens for tokens, *_ in expected], output.sequences[:, -NEW:][:, :2].tolist())

    def first_pass(self) -> None:
        """A method that ranks the tokens of each frame in a pass of its own, in a padded batch."""
        pruner, rows = build.method("flexselect", retention=0.75, frames_per_group=1), [ONE, OTHER]
        output, _ = self._generate(rows, pruner)
        ((layer, _),) = pruner.cuts(len(self.twin.model.get_decoder().layers))
        choices = [choose_in_groups(self.twin, row, layer, pruner.retention, pruner.frames_per_group) for row in rows]
        expected = [self.twin.reference(row, choice, 2) for row, choice in zip(rows, choices, strict=True)]
        _close("first logits", torch.stack([first for _, first in expected]), output.logits[0])
        _equal("tokens", [tokens for tokens, _ in expected], output.sequences[:, -NEW:][:, :2].tolist())

    def grid(self) -> None:
        """Features and signals have the grid position of their pixels: other pixels in one cell change that cell.

        Attention in the vision encoder spreads a change to all cells of a frame, so it is disabled for features and
        keys. Saliency and frame features are computed from attention, so only the frame of their change is checked.
        """
        frames, height, width = self.twin.encode_part(CLIP, None).grid or (0, 0, 0)
        cells = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (frames - 1, height - 1, width - 1)]
        inputs = self.twin.inputs([ONE])
        marked = [self.twin.with_changed_cell(inputs, (frames, height, width), cell) for cell in cells]
        signals = self.family.signals.provides - {"timestamps", "keys"}
        with _without_attention(self.twin):
            plain, *others = self._record([inputs, *marked], self.family.signals.provides & {"keys"})
        _equal("grid", (frames, height, width), tuple(plain.features.shape[:3]))
        for cell, tokens in zip(cells, others, strict=True):
            for name in ("features", *(self.family.signals.provides & {"keys"})):
                change = (_signal(tokens, name) - _signal(plain, name)).abs().sum(-1)
                changed = tuple(int(place) for place in (change == change.max()).nonzero()[0])
                _equal(f"position of a change in the {name}", cell, changed)
        plain, other = self._record([inputs, marked[2]], signals)
        for name in sorted(signals):
            change = (_signal(other, name) - _signal(plain, name)).abs().flatten(1).sum(1)
            _equal(f"frame of a change in the {name}", cells[2][0], int(change.argmax()))

    # --- helpers ------------------------------------------------------------------------------------------------

    @cached_property
    def _single(self) -> tuple[Any, Any]:
        return self._answers([ONE])

    def _answers(self, rows: Sequence[PromptParts], **options: Any) -> tuple[Any, Any]:
        """`_generate`, with each answer compared with its reference."""
        output, session = self._generate(rows, self.pruner, **options)
        expected = [self._reference(row, options.get("positions") == "original") for row in rows]
        _close("first logits", torch.stack([first for _, first in expected]), output.logits[0])
        _equal("tokens", [tokens for tokens, _ in expected], output.sequences[:, -NEW:].tolist())
        return output, session

    def _generate(self, rows: Sequence[PromptParts], pruner: Any, **options: Any) -> tuple[Any, Any]:
        """The output of `generate`, and the session."""
        # Outside of the context, in which the features that a twin computes for its inputs would be pruned too.
        inputs = self.twin.inputs(rows)
        greedy: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, Arg.USE_CACHE: True}
        with self._attach(pruner, **options) as session:
            output = self.twin.model.generate(**inputs, **greedy, return_dict_in_generate=True, output_logits=True)
        return output, session

    def _reference(self, row: PromptParts, original: bool = False) -> tuple[list[int], Tensor]:
        if (row, original) not in self._references:
            self._references[row, original] = self.twin.reference(row, self.pruner, NEW, original)
        return self._references[row, original]

    def _record(self, prompts: Sequence[dict[str, Any]], needs: frozenset[str]) -> list[VideoTokens]:
        """The video of each prompt as a method gets it."""
        recorder = Recorder(needs)
        with self._attach(recorder):
            for inputs in prompts:
                self.twin.model.generate(**inputs, max_new_tokens=1, do_sample=False)
        _equal("videos that were pruned", len(prompts), len(recorder.tokens))
        return recorder.tokens


def _signal(tokens: VideoTokens, name: str) -> Tensor:
    signal = getattr(tokens, name)
    if signal is None:
        raise Difference(name, "a tensor", None)
    return torch.as_tensor(signal).double()


def _equal(what: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise Difference(what, expected, actual)


def _close(what: str, expected: Tensor, actual: Tensor) -> None:
    _equal(f"shape of the {what}", tuple(expected.shape), tuple(actual.shape))
    difference = float((expected - actual).abs().max())
    # Not `difference > TOLERANCE`, which is False for NaN.
    if not difference <= TOLERANCE:
        raise Difference(what, f"those of the reference within {TOLERANCE}", f"a difference of up to {difference:.3g}")


def _cache(output: Any) -> dict[str, Any]:
    """The cache of an output, under its name there, which is also its name as an argument."""
    return {name: value for name, value in output.items() if hasattr(value, "get_seq_length")}


def _without_attention(twin: Twin) -> ExitStack:
    """A context in which the attention layers of the vision encoder return zeros."""
    text = set(twin.model.get_decoder().modules())
    layers = [m for m in twin.model.modules() if m not in text and type(m).__name__.endswith("Attention")]
    if not layers:
        raise Difference("attention layers of the vision encoder", "some", "none")
    stack = ExitStack()
    for layer in layers:
        stack.callback(layer.register_forward_hook(_zeros).remove)
    return stack


def _zeros(_layer: Any, _args: Any, output: Any) -> Any:
    return output * 0 if isinstance(output, Tensor) else (output[0] * 0, *output[1:])
