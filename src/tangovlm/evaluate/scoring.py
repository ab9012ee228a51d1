"""Answers about one clip under many methods, without running anything twice.

The vision tower runs once a clip, with every signal that some method needs. A method that works before the language
model does not know the question, so its kept tokens are read once and all questions go on from there. What comes out
is what `attach` and `generate` give, which `attached` uses and the tests compare.

Shape letters: R videos (of several methods, equally many tokens), M tokens of a video, Q questions, S their words, B
rows R * Q.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from tangovlm.errors import InputError, ModelError
from tangovlm.models.common.family import Family
from tangovlm.models.common.layout import Prompt
from tangovlm.models.common.transformers_compat import Arg, cache_for, cache_in
from tangovlm.pipeline.load import VideoLLM
from tangovlm.session.attach import attach_family
from tangovlm.tiny.evaluate import MAX_NEW_TOKENS
from tangovlm.tiny.synthetic.questions import Question
from tangovlm.tokens import Selection, VideoTokens

from .runs import SALIENCIES, Run

_MOST_POSITIONS = 40_000
"""Cached positions that are held at a time, all rows together."""


@dataclass(frozen=True)
class Reply:
    """A model's answer in words, and the log-likelihood of each choice."""

    answer: str
    likelihoods: tuple[float, ...]

    def best(self, question: Question) -> str:
        """The likeliest choice; the first of equals."""
        return question.choices[max(range(len(self.likelihoods)), key=self.likelihoods.__getitem__)]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A clip as the vision tower gives it.

    rows: (rows, D) tokens of the grid and what follows them. tokens: by kind of saliency, with all signals asked for.
    """

    rows: Tensor
    tokens: Mapping[str, VideoTokens]


@dataclass(frozen=True, eq=False)
class Visual:
    """What the language model gets of a video: (M, D) rows at the positions (M,), of `length` without pruning."""

    rows: Tensor
    positions: Tensor
    end: int
    """The first position behind the video."""


def visual(encoded: Encoded, selection: Selection, positions: str) -> Visual:
    """The kept tokens and what follows the grid, with their positions relative to the video's first."""
    count = selection.sources.numel()
    rest = encoded.rows[count:]
    rows = torch.cat([selection.features.to(rest.dtype), rest])
    if positions == "original":
        behind = torch.arange(count, len(encoded.rows), device=rows.device)
        return Visual(rows, torch.cat([selection.indices, behind]), len(encoded.rows))
    return Visual(rows, torch.arange(len(rows), device=rows.device), len(rows))


class Scorer:
    """Asks one model; see the module."""

    def __init__(self, llm: VideoLLM) -> None:
        self.llm = llm
        family = llm.family
        self._families: dict[str, Family] = {
            kind: type(family)(llm.model, saliency=kind, head_weights=family.head_weights) for kind in SALIENCIES
        }
        eos = llm.model.generation_config.eos_token_id
        ends = eos if isinstance(eos, list) else [] if eos is None else [eos]
        self._ends = torch.tensor(ends, dtype=torch.long, device=family.device)
        self._words: dict[str, list[int]] = {}

    def family(self, kind: str) -> Family:
        """The model's family with a saliency of its own, which `check` refuses if the model cannot give it."""
        return self._families[kind]

    def shares(self, run: Run) -> bool:
        """Whether what a run keeps can be read once for all questions; if not, it goes through `attached`."""
        return not run.in_llm and self.llm.family.in_one_piece

    def check(self, runs: Iterable[Run]) -> None:
        """See that every method fits the model, before anything is computed.

        Raises
        ------
        TangoError: a signal that the model does not give, a retention that cannot be reached; see `attach`.
        """
        for run in runs:
            family = self.family(run.saliency)
            with attach_family(family, run.pruner, positions=None if family.keeps_positions else run.positions):
                pass

    # --- the tower ------------------------------------------------------------------------------------------------

    def pixels(self, frames: Tensor) -> Tensor:
        """Model inputs of uint8 frames."""
        return self.llm.family.pixels(frames.to(self.llm.family.device), self.llm.config)

    @torch.no_grad()
    def encode(self, pixels: Tensor, seconds: Tensor, needs: Mapping[str, frozenset[str]]) -> Encoded:
        """Run the tower once.

        Parameters
        ----------
        needs: kind of saliency to the signals that are needed beside it.
        """
        with ExitStack() as stack:
            signals = {k: stack.enter_context(self.family(k).observe(wanted)) for k, wanted in needs.items()}
            rows = self.llm.family.encoder.get_video_features(pixels, **{Arg.AS_DICT: True}).pooler_output[0]
        (clip,) = self.llm.family.clips(Prompt(), pixels)
        tokens = {k: self.family(k).video_tokens(rows, clip, found, seconds) for k, found in signals.items()}
        return Encoded(rows, tokens)

    # --- the prompt -----------------------------------------------------------------------------------------------

    @cached_property
    def _video_token(self) -> int:
        config = self.llm.model.config
        return int(getattr(config, "video_token_id", None) or config.video_token_index)

    def prompts(self, pixels: Tensor, texts: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Token ids in front of the video, and behind it for each question.

        Raises
        ------
        ModelError: a prompt in which the video is not one piece.
        """
        before: list[int] = []
        behind = []
        for text in texts:
            ids = self.llm.family.inputs(self.llm.tokenizer, self.llm.template, pixels, text)[Arg.IDS][0]
            (places,) = (ids == self._video_token).nonzero(as_tuple=True)
            first, last = int(places[0]), int(places[-1])
            if last - first + 1 != len(places):
                raise ModelError(f"{self.llm.name} has a prompt with a video in pieces: name another --model")
            before = ids[:first].tolist()
            behind.append(ids[last + 1 :].tolist())
        return before, behind

    # --- the language model ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def replies(
        self, videos: Sequence[Visual], before: list[int], behind: list[list[int]], questions: Sequence[Question]
    ) -> Iterator[list[Reply]]:
        """Of each video, a reply to each question; all videos have equally many rows.

        Raises
        ------
        InputError: NaN in what the model computes.
        """
        length = len(before) + len(videos[0].rows) + max(map(len, behind)) + MAX_NEW_TOKENS
        at_once = max(1, _MOST_POSITIONS // (length * len(questions)))
        for start in range(0, len(videos), at_once):
            yield from self._replies(videos[start : start + at_once], before, behind, questions)

    def _replies(
        self, videos: Sequence[Visual], before: list[int], behind: list[list[int]], questions: Sequence[Question]
    ) -> Iterator[list[Reply]]:
        seen = self._read_videos(videos, before)
        starts = [len(before) + video.end for video in videos]
        rows = self._read_questions(seen, starts, behind)
        likelihoods = self._likelihoods(rows, [q.choices for q in questions] * len(videos))
        answers = self._generate(rows)
        replies = [Reply(answer, scores) for answer, scores in zip(answers, likelihoods, strict=True)]
        for start in range(0, len(replies), len(questions)):
            yield replies[start : start + len(questions)]

    def _read_videos(self, videos: Sequence[Visual], before: list[int]) -> DynamicCache:
        """What the language model remembers of the prompts up to the end of the videos, R rows."""
        family, count = self.llm.family, len(videos)
        words = self._embed(torch.tensor(before, dtype=torch.long, device=family.device)).expand(count, -1, -1)
        embeds = torch.cat([words, torch.stack([video.rows for video in videos])], dim=1)
        front = torch.arange(len(before), device=embeds.device).expand(count, -1)
        places = torch.cat([front, len(before) + torch.stack([video.positions for video in videos])], dim=1)
        return cache_in(family.decoder(**{Arg.EMBEDS: embeds, Arg.POSITIONS: places, Arg.USE_CACHE: True}))

    def _read_questions(self, seen: DynamicCache, starts: list[int], behind: list[list[int]]) -> "_Rows":
        """Every question behind every video, padded on the left."""
        device = self.llm.family.device
        longest = max(map(len, behind))
        ids = torch.zeros(len(behind), longest, dtype=torch.long, device=device)
        mask = torch.zeros(len(behind), longest, dtype=torch.long, device=device)
        for row, words in enumerate(behind):
            ids[row, longest - len(words) :] = torch.tensor(words)
            mask[row, longest - len(words) :] = 1
        count = len(starts)
        first = torch.tensor(starts, device=device).repeat_interleave(len(behind))[:, None]
        places = first + (mask.cumsum(1) - 1).clamp_min(0).repeat(count, 1)
        cache = _rows_of(seen, torch.arange(count, device=device).repeat_interleave(len(behind)))
        past = mask.new_ones(len(places), seen.get_seq_length())
        mask = torch.cat([past, mask.repeat(count, 1)], dim=1)
        logits = self._read(ids.repeat(count, 1), cache, mask, places)[:, -1]
        if bool(logits.isnan().any()):
            raise InputError("the model's output has NaN values: check its weights")
        return _Rows(cache, mask, places[:, -1] + 1, logits)

    def _likelihoods(self, rows: "_Rows", choices: Sequence[tuple[str, ...]]) -> list[tuple[float, ...]]:
        """The sum of the log-probabilities of each choice's tokens, as the beginning of the answer."""
        ids = [[self._ids(choice) for choice in offered] for offered in choices]
        first = rows.logits.log_softmax(-1)
        rest = [(row, words) for row, offered in enumerate(ids) for words in offered if len(words) > 1]
        later = iter(self._later(rows, rest).tolist() if rest else ())
        heads = iter(first[[r for r, o in enumerate(ids) for _ in o], [w[0] for o in ids for w in o]].tolist())
        return [tuple(next(heads) + (next(later) if len(words) > 1 else 0.0) for words in offered) for offered in ids]

    def _later(self, rows: "_Rows", continuations: list[tuple[int, list[int]]]) -> Tensor:
        """Log-probability of all tokens but the first of each continuation (a row and its tokens)."""
        device = rows.mask.device
        longest = max(len(words) for _, words in continuations)
        ids = torch.zeros(len(continuations), longest, dtype=torch.long, device=device)
        valid = torch.zeros_like(ids)
        for index, (_, words) in enumerate(continuations):
            ids[index, : len(words)] = torch.tensor(words)
            valid[index, : len(words)] = 1
        chosen = torch.tensor([row for row, _ in continuations], device=device)
        mask = torch.cat([rows.mask[chosen], valid[:, :-1]], dim=1)
        places = rows.next[chosen, None] + torch.arange(longest - 1, device=device)
        logits = self._read(ids[:, :-1], _rows_of(rows.cache, chosen), mask, places)
        return (logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0] * valid[:, 1:]).sum(1)

    def _generate(self, rows: "_Rows") -> list[str]:
        """Greedy answers; this uses up the cache."""
        ids = rows.logits.argmax(-1, keepdim=True)
        written, mask = [ids], rows.mask
        for step in range(MAX_NEW_TOKENS - 1):
            if bool(torch.isin(torch.cat(written, 1), self._ends).any(1).all()):
                break
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            ids = self._read(ids, rows.cache, mask, rows.next[:, None] + step)[:, -1].argmax(-1, keepdim=True)
            written.append(ids)
        return [self._text(words) for words in torch.cat(written, 1).tolist()]

    def _text(self, words: list[int]) -> str:
        ends = [place for place, word in enumerate(words) if word in self._ends.tolist()]
        return self.llm.tokenizer.decode(words[: ends[0] if ends else None], skip_special_tokens=True).strip()

    def _read(self, ids: Tensor, cache: DynamicCache, mask: Tensor, places: Tensor) -> Tensor:
        """Logits of new tokens (B, S) behind what the cache holds."""
        decoder: Any = self.llm.family.decoder
        given = {Arg.EMBEDS: self._embed(ids), Arg.MASK: mask, Arg.POSITIONS: places}
        output = decoder(**given, **cache_for(decoder.forward, cache))
        logits: Tensor = self.llm.model.get_output_embeddings()(output.last_hidden_state)
        return logits.float()

    def _embed(self, ids: Tensor) -> Tensor:
        return self.llm.model.get_input_embeddings()(ids)

    def _ids(self, text: str) -> list[int]:
        if text not in self._words:
            self._words[text] = self.llm.tokenizer(text).input_ids
        return self._words[text]


@dataclass(frozen=True, eq=False)
class _Rows:
    """Prompts that have been read: the cache, its mask (B, n), the next position (B,), the logits there (B, words)."""

    cache: DynamicCache
    mask: Tensor
    next: Tensor
    logits: Tensor


def _rows_of(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """A new cache with copies of some rows."""
    copied = DynamicCache()
    for index, layer in enumerate(cache.layers):
        copied.update(layer.keys[rows], layer.values[rows], index)
    return copied
