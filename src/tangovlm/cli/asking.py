"""What the commands that run a model share: loading it, asking it with progress bars, and writing the HTML report."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tangovlm
from tangovlm import registry
from tangovlm.errors import InputError
from tangovlm.report import Exchange, write_whole

from . import spinner
from .output import log, only_results, show, show_json, stage_bars

if TYPE_CHECKING:
    from tangovlm.pipeline.answer import Answer
    from tangovlm.pipeline.encoded.encoded_clip import EncodedClip
    from tangovlm.pipeline.load import VideoLLM
    from tangovlm.session.records import Recording
    from tangovlm.tokens import Pruner
    from tangovlm.video import FrameSampling

    from .options import Dtype, Saliency

STANDARD_INPUT = "-"


def load(
    model: str | None, *, dtype: Dtype | None = None, saliency: Saliency | None = None, **options: Any
) -> VideoLLM:
    """Call `tangovlm.load` with options as the command line parses them."""
    import torch

    spinner.update("loading the model")
    torch_dtype: torch.dtype | None = None if dtype is None else getattr(torch, dtype.value)
    kind = None if saliency is None else saliency.value
    return tangovlm.load(model, dtype=torch_dtype, saliency=kind, **options)


def log_foreign(llm: VideoLLM, video: str | Path) -> set[str]:
    """Print before the answer that an embedded model cannot know about a video; returns the notes that were printed."""
    from tangovlm.pipeline.embedded import FOREIGN_NOTE, embedded_note

    if embedded_note(llm, video) != FOREIGN_NOTE:
        return set()
    log(f"note: {FOREIGN_NOTE}")
    return {FOREIGN_NOTE}


def log_follow_up(llm: VideoLLM) -> set[str]:
    """Print before a later answer of a conversation that an embedded model cannot follow up; see `log_foreign`."""
    from tangovlm.pipeline.embedded import FOLLOW_UP_NOTE

    if not llm.builtin:
        return set()
    log(f"note: {FOLLOW_UP_NOTE}")
    return {FOLLOW_UP_NOTE}


@contextmanager
def local_video(video: str, *, chat: bool) -> Iterator[str]:
    """A video as named on the command line; `-` is copied to a file that exists within the context.

    Parameters
    ----------
    chat: whether questions are read from standard input.
    """
    if video != STANDARD_INPUT:
        yield video
        return
    if chat:
        raise InputError("--chat reads questions from standard input, so that the video needs a file")
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("the video is standard input, and nothing is piped to it: pipe a video or name a file")
    from tangovlm.video.input.spool import stored

    with stored(sys.stdin.buffer) as path:
        yield path


@dataclass(frozen=True)
class Run:
    """Call `tangovlm.ask` for one video and one model, with progress bars.

    Parameters
    ----------
    record: what to keep for the report, for every call that does not set it itself.
    frames: which of the video to take; None for the model's own number.
    max_new_tokens, positions, chunk_frames, newlines: see `tangovlm.ask`.
    encode_frames: `encode` of `tangovlm.ask`.
    """

    video: str | Path
    llm: VideoLLM
    frames: FrameSampling | None
    max_new_tokens: int
    record: bool | Recording
    positions: str | None = None
    chunk_frames: int | None = None
    newlines: str = "kept"
    encode_frames: str = "all"

    def __call__(self, question: str, pruner: Pruner, prefix: str = "", **changes: Any) -> Answer:
        """Ask one question.

        Parameters
        ----------
        prefix: precedes the text of the progress bars.
        changes: keyword arguments of `tangovlm.ask` for this call only.
        """
        options = {
            "frames": self.frames,
            "max_new_tokens": self.max_new_tokens,
            "record": self.record,
            "positions": self.positions,
            "chunk_frames": self.chunk_frames,
            "newlines": self.newlines,
            "encode": self.encode_frames,
        } | changes
        with stage_bars(prefix) as progress:
            return tangovlm.ask(self.video, question, model=self.llm, method=pruner, progress=progress, **options)

    def encode(
        self, pruner: Pruner, questions: Sequence[str] = (), others: Sequence[Pruner] = (), *, warm_up: bool = False
    ) -> EncodedClip:
        """Decode, encode and prune the video for several questions or methods, with progress bars.

        Parameters
        ----------
        questions, others: that will be asked, and other methods; what does not fit the context of the model is refused
            before the video is encoded.
        warm_up: see `Run.warm_up`; it comes after that.
        """
        from tangovlm.pipeline.encoded.encoded_clip import EncodedClip
        from tangovlm.pipeline.encoded.encoding import prepare

        with stage_bars() as progress:
            encoding = prepare(
                self.llm,
                self.video,
                progress=progress,
                frames=self.frames,
                record=self.record,
                positions=self.positions,
                chunk_frames=self.chunk_frames,
                newlines=self.newlines,
                encode=self.encode_frames,
            )
        for each in (pruner, *others):
            encoding.check(each, questions)
        if warm_up:
            self.warm_up(questions[0], pruner)
        with stage_bars() as progress:
            progress("encode", 0, 1)
            clip = EncodedClip(encoding, pruner)
            progress("encode", 1, 1)
        return clip

    def ask_about(
        self, clip: EncodedClip, question: str, prefix: str = "", history: Sequence[tuple[str, str]] = ()
    ) -> Answer:
        """Ask one question about an encoded clip, with a progress bar; see `EncodedClip.ask`."""
        with stage_bars(prefix) as progress:
            return clip.ask(question, history=history, max_new_tokens=self.max_new_tokens, progress=progress)

    def ask_all_about(self, clip: EncodedClip, questions: Sequence[str]) -> list[Answer]:
        """Ask several questions about an encoded clip in batches, with a progress bar; see `EncodedClip.ask_all`."""
        with stage_bars() as bar:

            def progress(_stage: str, done: int, total: int) -> None:
                bar("questions answered", done, total)

            return clip.ask_all(questions, max_new_tokens=self.max_new_tokens, progress=progress)

    def warm_up(self, question: str, pruner: Pruner) -> None:
        """Ask once and drop the answer, because the first call in a process is slower than later ones."""
        self(question, pruner, "warming up: ", max_new_tokens=1, record=False)


def show_dry_runs(
    video: str | Path, questions: Sequence[str], pruner: Pruner, model: str | None, as_json: bool, **options: Any
) -> None:
    """Print what questions will cost, without loading weights.

    Parameters
    ----------
    options: `device`, `dtype` and `max_frame_pixels` of `load`; `frames`, `positions` and `newlines` of
        `tangovlm.pipeline.dry_run.dry_run`.
    """
    import torch

    from tangovlm.pipeline.dry_run import dry_runs, load_without_weights

    loading = {name: options.pop(name) for name in ("device", "max_frame_pixels")}
    name = options.pop("dtype")
    with only_results():
        llm = load_without_weights(model, dtype=None if name is None else getattr(torch, name.value), **loading)
        with stage_bars() as progress:
            runs = dry_runs(video, questions, llm, pruner, progress=progress, **options)
    for question, run in zip(questions, runs, strict=True):
        if as_json:
            show_json({"question": question} | run.as_dict())
        else:
            show("\n".join([*([f"question: {question}"] if len(runs) > 1 else []), str(run)]))


def write_page(path: Path, exchanges: list[Exchange], title: str, settings: dict[str, object]) -> None:
    """Write the HTML report of exchanges whose first answer was recorded."""
    from tangovlm.report import html_page, scene

    answer = exchanges[0].answer
    page = html_page(scene(answer.frames, answer.video), exchanges, title=title, settings=settings)
    # A file name may contain bytes that are not valid text.
    write_whole(path, page.encode(errors="replace"))


def hyper_parameters(pruner: Any) -> dict[str, Any]:
    """The fields of a method that its constructor accepts, with their values."""
    return {field.name: getattr(pruner, field.name) for field in fields(pruner) if field.init}


def settings_of(pruner: Pruner) -> dict[str, object]:
    """Name and hyper-parameters of a method, for a report."""
    return {"method": pruner.name} | hyper_parameters(pruner)


def unpruned(pruner: Pruner) -> Pruner:
    """The same method with every token kept."""
    return tangovlm.method(pruner.name, retention=1.0)


def with_sinks(pruner: Any, file: Path) -> Any:
    """A copy of a method or a pair that masks the sink tokens listed in a file.

    Raises
    ------
    InputError: a method that masks no sinks.
    MethodError: an invalid file, see `tangovlm.Tango`.
    """
    from tangovlm.methods.build import Pair

    if isinstance(pruner, Pair):
        return replace(pruner, before=with_sinks(pruner.before, file))
    if not _masks_sinks(pruner):
        able = [name for name, cls in registry.methods().items() if _masks_sinks(cls)]
        raise InputError(f"--sink-tokens does not go with the method {pruner.name}: use {' or '.join(able)}")
    return replace(pruner, sink_tokens=file)


def _masks_sinks(method: Any) -> bool:
    return any(field.name == "sink_tokens" for field in fields(method))
