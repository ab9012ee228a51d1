"""Answers to the requests of a harness: one model, one method, and one encoding for all questions about a video.

Requests are gathered by their videos. What is decoded, encoded and pruned for the first question about a video serves
the others, which then run as they would alone: a call of `generate` for each, so that answers are the same to the bit.
With a batch size above one, a call has questions about that many different videos, and the next call the next question
about each of them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import StoppingCriteria

from tangovlm.errors import InputError
from tangovlm.inputs import chat
from tangovlm.machine.memory import memory_guard
from tangovlm.models.common.transformers_compat import Arg
from tangovlm.pipeline import frame_source as sources
from tangovlm.pipeline import load as loading
from tangovlm.pipeline.ask import BUILTIN_NOTE, refuse_nan
from tangovlm.pipeline.frame_source import Source
from tangovlm.pipeline.load import VideoLLM
from tangovlm.session.attach import attach_family
from tangovlm.session.memo import Memo
from tangovlm.tokens import VideoReport
from tangovlm.video import Frames, decode, duration_s

from .batches import Batch, batches, key_of
from .peak import Peak
from .requests import STAGES, Answered, Limits, Media, Request
from .settings import Settings

Finished = Callable[[int, Answered], None]
"""Is told of each answer as it is there, with the place of its request."""


class Backend(Protocol):
    """What answers requests."""

    def answer(self, requests: Sequence[Request], finished: Finished | None = None) -> list[Answered]: ...


def make(settings: Settings) -> Backend:
    """The backend that the settings name, with its model loaded.

    Raises
    ------
    TangoError: see `Answerer` and `in_vllm.VllmAnswerer`.
    """
    if settings.backend == "vllm":
        from .in_vllm import VllmAnswerer

        return VllmAnswerer(settings)
    return Answerer(settings)


class Answerer:
    """A stock model in this process, with a method on it.

    Parameters
    ----------
    settings: of the model and the method.
    llm: a model that is loaded already; None for the one that the settings name.

    Raises
    ------
    TangoError: see `tangovlm.load` and `tangovlm.attach`.

    Example
    -------
    >>> answerer = Answerer(Settings("tangovlm-tiny", retention=0.5))  # doctest: +SKIP
    >>> answerer.answer([Request("Which way does the star move?", ["clip.mp4"])])[0].text  # doctest: +SKIP
    'left'
    """

    def __init__(self, settings: Settings, llm: VideoLLM | None = None) -> None:
        self.settings = settings
        self.llm = load(settings) if llm is None else llm.limited(settings.max_frame_pixels)
        self.pruner = settings.pruner()
        self._kept: Batch | None = None
        with self._attached(None, None):
            pass

    def answer(self, requests: Sequence[Request], finished: Finished | None = None) -> list[Answered]:
        """An answer to every request, in their order.

        Parameters
        ----------
        finished: called as soon as an answer is there.

        Raises
        ------
        TangoError: a video that cannot be decoded, a prompt that is too long, too little memory, NaN in what the model
            computes; answers that `finished` was given are not lost.
        """
        answers: dict[int, Answered] = {}
        for places in batches(requests, self.settings.batch_size):
            found = self._together([requests[place] for place in places])
            for place, answered in zip(places, found, strict=True):
                answers[place] = answered
                if finished is not None:
                    finished(place, answered)
        return [answers[place] for place in range(len(requests))]

    # --- one call of the model ------------------------------------------------------------------------------------

    def _together(self, requests: Sequence[Request]) -> list[Answered]:
        llm, limits = self.llm, requests[0].limits
        with Peak(llm.family.device) as peak:
            batch, shared = self._batch([request.videos for request in requests])
            texts = [prompt(llm, request) for request in requests]
            inputs = batch.inputs(llm, texts)
            length = inputs[Arg.IDS].shape[1]
            stops = [_Stops(partial(self._text, limits=None), limits.until, length)] if limits.until else []
            with (
                self._attached(batch.timestamps, batch.memo) as session,
                memory_guard(llm.family.device, "answering", "take a smaller batch_size, or fewer frames"),
            ):
                output = llm.model.generate(
                    **inputs, **limits.options, logits_processor=[refuse_nan], stopping_criteria=stops
                )
        written, report = output[:, length:], session.report
        prepared = {} if shared else {"decode": batch.decode_ms(), "encode": batch.prepare_ms()}
        times = {stage: report.timings_ms.get(stage, 0.0) + prepared.get(stage, 0.0) for stage in STAGES}
        own = (BUILTIN_NOTE,) if llm.builtin else ()
        notes = (*report.notes, *llm.family.notes(llm.config), *own)
        reports, sizes = iter(report.videos), [len(request.videos) for request in requests]
        return [
            _answered(
                self._text(row, limits),
                [next(reports) for _ in range(size)],
                batch.of_row(sizes, number),
                prompt_tokens=int(inputs[Arg.MASK][number].sum()),
                output_tokens=self._count(row),
                times_ms={stage: ms / len(requests) for stage, ms in times.items()},
                shared=shared and size > 0,
                batch=len(requests),
                peak_bytes=peak.bytes,
                notes=notes,
            )
            for number, (row, size) in enumerate(zip(written, sizes, strict=True))
        ]

    def _attached(self, timestamps: list[Tensor] | None, memo: Memo | None) -> Any:
        return attach_family(
            self.llm.family,
            self.pruner,
            timestamps=timestamps or None,
            positions=self.settings.positions,
            newlines=self.settings.newlines or "kept",
            in_turn=True,
            memo=memo,
        )

    def _batch(self, videos: Sequence[Sequence[Media]]) -> tuple[Batch, bool]:
        """The videos of a batch, and whether they are those of the last one."""
        flat = [video for own in videos for video in own]
        key = [key_of(video) for video in flat]
        if self._kept is not None and self._kept.key == key:
            return self._kept, True
        # What was kept may be needed no more, and its place for what comes.
        self._kept = None
        self._kept = Batch(key, [self._source(video) for video in flat])
        return self._kept, False

    def _source(self, video: Media) -> Source:
        llm, start = self.llm, perf_counter()
        clip = video if isinstance(video, Frames) else self._decoded(video)
        decode_ms = 0.0 if isinstance(video, Frames) else 1000 * (perf_counter() - start)
        return sources.whole(clip, decode_ms, llm.family, llm.config, resized=not isinstance(video, Frames))

    def _decoded(self, video: str | Path) -> Frames:
        settings, llm = self.settings, self.llm
        if settings.fps is None:
            count = settings.frames or llm.default_frames
        else:
            count = max(1, int(settings.fps * duration_s(video) + 0.5))
            count = min(count, settings.frames or count)
        return decode(video, count, fit=partial(llm.family.frame_size, llm.config))

    def _text(self, row: Tensor, limits: Limits | None) -> str:
        text: str = self.llm.tokenizer.decode(row, skip_special_tokens=True)
        return text if limits is None else limits.cut(text)

    def _count(self, row: Tensor) -> int:
        """Tokens of an answer up to its end, which counts."""
        eos = self.llm.model.generation_config.eos_token_id
        ends = torch.tensor(eos if isinstance(eos, list) else [] if eos is None else [eos], device=row.device)
        (places,) = torch.isin(row, ends).nonzero(as_tuple=True)
        return int(places[0]) + 1 if len(places) else len(row)


class _Stops(StoppingCriteria):
    """Ends each row where its text holds one of some texts."""

    def __init__(self, text: Callable[[Tensor], str], until: tuple[str, ...], prompt: int) -> None:
        self._text = text
        self._until = until
        self._prompt = prompt

    def __call__(self, input_ids: Tensor, scores: Any, **_options: Any) -> Tensor:
        del scores
        texts = [self._text(row[self._prompt :]) for row in input_ids]
        done = [any(end in text for end in self._until) for text in texts]
        return torch.tensor(done, device=input_ids.device)


def load(settings: Settings) -> VideoLLM:
    """The model of some settings; see `tangovlm.load`."""
    dtype = settings.dtype
    return loading.load(
        settings.checkpoint,
        device=settings.device,
        device_map=settings.device_map,
        dtype=None if dtype in (None, "auto") else getattr(torch, str(dtype)),
        saliency=settings.saliency,
        head_weights=settings.head_weights,
        max_frame_pixels=settings.max_frame_pixels,
    )


def prompt(llm: VideoLLM, request: Request) -> str:
    """The text that a checkpoint's chat template makes of a request, with a video token for each video.

    Raises
    ------
    InputError: images, a text with placeholders of pictures in it, or no conversation.
    ModelError: a chat template that does not take it.
    """
    family, tokenizer = llm.family, llm.tokenizer
    (turns,), _ = chat.conversations(request.turns)
    token, template = family.video_token(tokenizer), family.template(llm.template)
    texts = [turn["content"] for turn in turns if isinstance(turn["content"], str)]
    texts += [part["text"] for part in chat.parts(turns, "text")]
    for reserved in (token, *family.reserved(tokenizer)):
        if any(reserved in text for text in texts):
            raise InputError(f"the prompt holds {reserved!r}, which stands for visual tokens: leave it out")
    if template is None and getattr(tokenizer, "chat_template", None) is None:
        # As `tangovlm.ask` writes a question then.
        return token * len(request.videos) + "\n" + "\n".join(texts) + "\n"
    return chat.render(tokenizer, template, turns, token, add_generation_prompt=True)


def _answered(text: str, reports: Sequence[VideoReport], videos: Sequence[Source], **fields: Any) -> Answered:
    layers = [report.tokens_per_layer for report in reports if report.tokens_per_layer]
    clips = [source.frames() for source in videos]
    notes = (*(note for clip in clips for note in clip.notes), *fields.pop("notes"))
    return Answered(
        text,
        tokens_before=sum(report.tokens_before for report in reports),
        tokens_after=sum(report.tokens_after for report in reports),
        newlines_before=sum(report.newlines_before for report in reports),
        newlines_after=sum(report.newlines_after for report in reports),
        frames=sum(len(clip.pixels) for clip in clips),
        tokens_per_layer=tuple(map(sum, zip(*layers, strict=True))),
        notes=tuple(dict.fromkeys(notes)),
        **fields,
    )
