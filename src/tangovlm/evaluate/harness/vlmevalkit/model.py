"""A model of VLMEvalKit's interface that answers through `Answerer`, and records each answer as soon as it is there."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError
from tangovlm.report import provenance

from ..answerer import Answerer, Backend, make
from ..records import Record, Records, key_of, read
from ..requests import Limits, Request
from ..settings import Settings

VIDEO_FIRST = ("llava-onevision", "llava-video", "llava-next-video")
"""Families whose prompts have the video before all text, as the authors' release writes them for LLaVA.

The others get text and video in VLMEvalKit's order, which has a data set's system text before the video."""


class Stopped(BaseException):
    """Ends a run of VLMEvalKit, which takes any `Exception` for a reason to go on with the next data set."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def builder(settings: Settings, folder: Path, limits: Limits) -> Callable[..., Any]:
    """What `supported_VLM` holds for our model: a function that makes it, when the first question is asked.

    Parameters
    ----------
    settings: of model and method; `frames` comes from the data preset.
    folder: of the records; VLMEvalKit itself saves answers only now and then.
    limits: of each answer.
    """

    def build(use_vllm: bool = False, **_options: Any) -> Any:
        if use_vllm:
            raise Stopped(InputError("--use-vllm is for VLMEvalKit's own models: give --param backend=vllm instead"))
        from vlmeval.vlm.base import BaseModel

        class Model(BaseModel):
            VIDEO_LLM = True
            INTERLEAVE = False

            def __init__(self) -> None:
                super().__init__()
                self.asker = Asker(settings, folder, limits)

            def use_custom_prompt(self, dataset: str) -> bool:
                del dataset
                return False

            def generate_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
                del dataset
                try:
                    return self.asker(message)
                except Exception as error:
                    raise Stopped(error) from error

        return Model()

    return build


class Asker:
    """Answers VLMEvalKit's messages, each of them once.

    Parameters
    ----------
    settings, folder, limits: see `builder`.

    Example
    -------
    >>> asker = Asker(Settings("tangovlm-tiny"), Path("out"), Limits())  # doctest: +SKIP
    >>> asker([{"type": "video", "value": "a.mp4", "frames": 8, "task": "Video-MME_8frame", "doc": "0"}, \
{"type": "text", "value": "What color is the star?"}])  # doctest: +SKIP
    'red'
    """

    def __init__(self, settings: Settings, folder: Path, limits: Limits) -> None:
        self._settings = settings
        self._folder = folder
        self._limits = limits
        self._known: Mapping[str, Record] | None = None
        self._backend: Backend | None = None
        self._records: Records | None = None
        self._open = ExitStack()

    def __call__(self, message: Sequence[Mapping[str, Any]]) -> str:
        """The answer to one message.

        Raises
        ------
        TangoError: a message with images, or without a number of frames; see `Records`, `answerer.make` and
            `Answerer.answer`.
        """
        parts = merged(message)
        frames, task, doc = _asked(message)
        known = self._taking(frames)
        key = key_of(task, doc, Request(conversation=[{"role": "user", "content": parts}], limits=self._limits))
        if key in known:
            return known[key].answered.text
        backend, records = self._ready()
        family = backend.llm.family.name if isinstance(backend, Answerer) else VIDEO_FIRST[0]
        (answered,) = backend.answer([arranged(parts, family, self._limits)])
        records.add(Record(task, doc, key, answered))
        return answered.text

    def _taking(self, frames: int) -> Mapping[str, Record]:
        """Take so many frames of a video from here on; the records of such questions, which have their own folder."""
        if self._known is None or self._settings.frames != frames:
            self._open.close()
            self._records = None
            self._settings = replace(self._settings, frames=frames)
            if self._backend is not None:
                loaded = self._backend.llm if isinstance(self._backend, Answerer) else None
                self._backend = None if loaded is None else Answerer(self._settings, loaded)
            self._known = read(self._of_frames, self._settings).records
        return self._known if self._records is None else self._records.known

    def _ready(self) -> tuple[Backend, Records]:
        """The model, which is loaded for the first question without an answer, and the open records."""
        if self._backend is None:
            self._backend = make(self._settings)
        if self._records is None:
            llm = self._backend.llm if isinstance(self._backend, Answerer) else None
            about = {} if llm is None else provenance.machine(llm.family.device)
            rank = int(os.environ.get("RANK", "0"))
            self._records = self._open.enter_context(Records(self._of_frames, self._settings, rank, about))
        return self._backend, self._records

    @property
    def _of_frames(self) -> Path:
        return self._folder / f"{self._settings.frames}frame"


def arranged(parts: Sequence[Mapping[str, str]], family: str, limits: Limits) -> Request:
    """The request as the authors' release would put it to a model of the family; see `VIDEO_FIRST`.

    Parameters
    ----------
    parts: of `merged`.

    Example
    -------
    >>> parts = merged([{"type": "text", "value": "Watch. "}, {"type": "video", "value": "a.mp4"}, \
{"type": "text", "value": "Who?"}])
    >>> arranged(parts, "llava-onevision", Limits()).text
    'Watch. Who?'
    >>> [part["type"] for part in arranged(parts, "qwen2.5-vl", Limits()).turns[0]["content"]]
    ['text', 'video', 'text']
    """
    if family in VIDEO_FIRST:
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        return Request(text, [part["video"] for part in parts if part["type"] == "video"], limits=limits)
    return Request(conversation=[{"role": "user", "content": list(parts)}], limits=limits)


def merged(message: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The parts of a conversation's one turn: texts that follow each other joined as they are.

    The text that VLMEvalKit marks as the assistant's, MVBench's "Best option:(", stays in the user's turn, as in the
    authors' release.

    Raises
    ------
    InputError: an image.

    Example
    -------
    >>> texts = [{"type": "text", "value": "Who?"}, {"type": "text", "value": " Only the letter."}]
    >>> merged([{"type": "video", "value": "a.mp4"}, *texts])
    [{'type': 'video', 'video': 'a.mp4'}, {'type': 'text', 'text': 'Who? Only the letter.'}]
    """
    parts: list[dict[str, str]] = []
    for part in message:
        kind, value = part["type"], part["value"]
        if kind == "video":
            parts.append({"type": "video", "video": value})
        elif kind != "text":
            raise InputError(f"VLMEvalKit asks about the {kind} {value}: only data sets of videos are supported")
        elif parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += value
        elif value:
            parts.append({"type": "text", "text": value})
    return parts


def _asked(message: Iterable[Mapping[str, Any]]) -> tuple[int, str, str]:
    """The number of frames, the preset and the question's index, which `vlmevalkit_data` puts beside the video."""
    for part in message:
        if part["type"] == "video" and part.get("frames"):
            return int(part["frames"]), part["task"], part["doc"]
    raise InputError("VLMEvalKit does not say how many frames to take: name presets with a number of frames")
