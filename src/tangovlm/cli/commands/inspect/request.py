"""What the commands with pictures share: their options, checks before a model is loaded, and files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, get_type_hints

import typer

from tangovlm.errors import InputError
from tangovlm.report import check_writable

from ...asking import load, log_foreign
from ...checks import check_at_least_one, check_device, check_found, check_model, sampling_of
from ...options import (
    AsJson,
    ChunkFrames,
    DeviceName,
    DtypeName,
    End,
    Fps,
    Frames,
    HeadWeights,
    MaxFramePixels,
    MaxFrames,
    Model,
    Saliency,
    SeekName,
    Start,
    Stream,
)
from ...output import log, only_results, show_json, show_table, stage_bars
from .sinks import check_clips

if TYPE_CHECKING:
    from tangovlm.inspection.clips import ClipSource
    from tangovlm.video import FrameSampling

FOLDER = Path("tangovlm-inspect")

OutputDir = Annotated[Path, typer.Option(help="Directory for the picture and the CSV file.")]
NoPicture = Annotated[bool, typer.Option("--no-picture", help="Write the CSV file only, which needs no matplotlib.")]


class Measured(Protocol):
    """A result of the package `inspection`."""

    @property
    def notes(self) -> tuple[str, ...]: ...

    def rows(self) -> list[Any]: ...

    def summary(self) -> list[Any]: ...


@dataclass(frozen=True)
class Files:
    """The files that a command writes.

    Parameters
    ----------
    command: its name, and that of the files.
    folder: is created.
    with_picture: False writes the CSV file only.
    """

    command: str
    folder: Path
    with_picture: bool

    @property
    def picture(self) -> Path | None:
        """The picture; None if there is none."""
        return self.folder / f"{self.command}.png" if self.with_picture else None

    @property
    def csv(self) -> Path:
        """The numbers."""
        return self.folder / f"{self.command}.csv"

    def check(self, clips: Sequence[str] = ()) -> None:
        """Check that they can be written, and are none of the clips.

        Raises
        ------
        InputError: matplotlib is missing, or a file cannot be written.
        """
        from tangovlm.report.plot import check_matplotlib

        if self.with_picture:
            check_matplotlib(f"the picture of inspect {self.command}", "give --no-picture")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--output-dir {self.folder} cannot be created: {error.strerror}: choose another"
            ) from error
        for file in filter(None, (self.picture, self.csv)):
            check_writable(file, "--output-dir")
            if file.exists() and any(file.samefile(clip) for clip in clips):
                raise InputError(f"--output-dir {self.folder} has the clip {file}: choose another directory")

    def write(self, measured: Measured, draw: Callable[[], Any]) -> None:
        """Write the numbers, and draw and write the picture."""
        from tangovlm.inspection.output import save, write_csv

        write_csv(self.csv, measured.rows())
        if self.picture is not None:
            save(self.picture, draw())

    def show(self, measured: Measured, as_json: bool, **more: object) -> None:
        """Print the summary, the notes and the names of the files."""
        rows = [{name: _json(value) for name, value in row.items()} for row in measured.summary()]
        for note in measured.notes:
            log(f"note: {note}")
        if as_json:
            names = {"csv": str(self.csv), "picture": None if self.picture is None else str(self.picture)}
            show_json({"rows": rows, **more, **names, "notes": list(measured.notes)})
            return
        show_table(list(rows[0]), [[_text(value) for value in row.values()] for row in rows])
        for file in filter(None, (self.csv, self.picture)):
            log(f"written: {file}")


@dataclass(frozen=True)
class Request:
    """Options of a command that measures clips, as the command line parses them; see `takes_clips`."""

    clips: Annotated[
        list[str] | None,
        typer.Argument(help="Video files; without any, clips of the synthetic world are drawn.", show_default=False),
    ] = None
    model: Model = None
    frames: Frames = None
    fps: Fps = None
    max_frames: MaxFrames = None
    start: Start = None
    end: End = None
    stream: Stream = None
    seek: SeekName = None
    saliency: Annotated[
        Saliency | None,
        typer.Option(help="The only saliency to read.", show_default="all of the family, or the method's own"),
    ] = None
    head_weights: HeadWeights = None
    output_dir: OutputDir = FOLDER
    no_picture: NoPicture = False
    as_json: AsJson = False
    device_name: DeviceName = None
    dtype: DtypeName = None
    chunk_frames: ChunkFrames = None
    max_frame_pixels: MaxFramePixels = None

    def check_paths(self) -> None:
        """Check that the clips and a local model exist, before what imports torch."""
        for clip in self.clips or []:
            check_found(clip)
        check_model(self.model)

    def run(
        self,
        command: str,
        measure: Callable[..., Measured],
        draw: Callable[[Any], Any],
        *,
        drawn: int = 1,
        one_clip: bool = False,
    ) -> None:
        """Check the options, load the model, measure, and write and print the results.

        Parameters
        ----------
        command: its name.
        measure: called with the model, the clips and a function for progress.
        draw: makes the figure of the result.
        drawn: number of clips to draw if no files are given.
        one_clip: whether the command shows one clip only.
        """
        sampling = sampling_of(self.frames, self.fps, self.max_frames, self.start, self.end, self.stream, self.seek)
        check_at_least_one("--chunk-frames", self.chunk_frames)
        check_at_least_one("--max-frame-pixels", self.max_frame_pixels)
        clips = self.clips or []
        if one_clip and len(clips) > 1:
            raise InputError(f"inspect {command} shows one clip, but {len(clips)} are given: name one")
        check_clips(clips, sampling)
        files = Files(command, self.output_dir, not self.no_picture)
        source = self._source(clips, sampling, drawn)
        files.check(clips)
        with only_results():
            llm = load(
                self.model,
                device=check_device(self.device_name),
                dtype=self.dtype,
                saliency=self.saliency,
                head_weights=self.head_weights,
                max_frame_pixels=self.max_frame_pixels,
            )
            if clips:
                log_foreign(llm, clips[0])
            with stage_bars() as progress:
                measured = measure(llm, source, progress)
            files.write(measured, lambda: draw(measured))
        files.show(measured, self.as_json, model=llm.name, clips=source.count)

    def _source(self, clips: list[str], sampling: FrameSampling, drawn: int) -> ClipSource:
        from tangovlm.inspection.clips import ClipSource

        return ClipSource(tuple(clips), sampling, drawn, self.chunk_frames)


def takes_clips(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator of a command whose first parameter is a `Request`: its fields become options of the command."""
    own = list(inspect.signature(command).parameters.values())[1:]
    hints = get_type_hints(Request, include_extras=True) | get_type_hints(command, include_extras=True)
    shared = list(inspect.signature(Request).parameters.values())
    names = {field.name for field in fields(Request)}

    @wraps(command)
    def call(**options: Any) -> None:
        command(Request(**{name: options.pop(name) for name in names}), **options)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [each.replace(annotation=hints[each.name], kind=keyword) for each in (shared[0], *own, *shared[1:])]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # read by typer
    call.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
    return call


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
