"""`tangovlm inspect sinks`: the grid positions to which a vision encoder attends whatever the clips show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tangovlm.errors import InputError
from tangovlm.report import check_writable, write_whole

from ...asking import load
from ...checks import check_at_least_one, check_device, check_video, sampling_of
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
from ...spinner import with_spinner

if TYPE_CHECKING:
    from tangovlm.inspection.sinks import MeasuredSinks
    from tangovlm.models.common.sinks import ReleasedSinks
    from tangovlm.video import FrameSampling

THRESHOLD = 0.9
"""`models.common.sinks.SINK_THRESHOLD`, whose module imports torch."""


@with_spinner
def sinks(
    clips: Annotated[
        list[str] | None, typer.Argument(help="Video files: dozens, with different content.", show_default=False)
    ] = None,
    model: Model = None,
    threshold: Annotated[
        float, typer.Option(help="Minimum of a sink's mean rank minus its standard deviation, in [0.5, 1].")
    ] = THRESHOLD,
    top: Annotated[
        int, typer.Option(help="Number of positions to show. All sinks and all released positions are always shown.")
    ] = 10,
    frames: Frames = None,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    start: Start = None,
    end: End = None,
    stream: Stream = None,
    seek: SeekName = None,
    saliency: Annotated[
        Saliency | None,
        typer.Option(help="Saliency to rank the positions by.", show_default="p-attn, else the family's first"),
    ] = None,
    head_weights: HeadWeights = None,
    out: Annotated[
        Path | None,
        typer.Option(help="JSON file to write, for --sink-tokens and Tango(sink_tokens=...).", show_default=False),
    ] = None,
    as_json: AsJson = False,
    device_name: DeviceName = None,
    dtype: DtypeName = None,
    chunk_frames: ChunkFrames = None,
    max_frame_pixels: MaxFramePixels = None,
) -> None:
    """Find sink tokens: grid positions with high attention in the vision encoder, whatever the clips show.

    The tokens of each frame are ranked by saliency, from 0 (lowest) to 1 (highest); ties share their mean rank.
    A sink is a position whose rank is high in nearly all frames. The language model does not run.
    """
    from tangovlm.models.common.sinks import check_threshold

    check_threshold(threshold, "--threshold")
    check_at_least_one("--max-frame-pixels", max_frame_pixels)
    sampling = sampling_of(frames, fps, max_frames, start, end, stream, seek)
    for option, value in (("--top", top), ("--chunk-frames", chunk_frames)):
        check_at_least_one(option, value)
    named = clips or []
    if not named:
        raise InputError("no clips are given: name some dozens with different content, such as clips/*.mp4")
    check_clips(named, sampling)
    if out is not None:
        _check_out(out, named)
    with only_results():
        from tangovlm.inspection.sinks import measure

        llm = load(
            model,
            device=check_device(device_name),
            dtype=dtype,
            saliency=saliency,
            head_weights=head_weights,
            max_frame_pixels=max_frame_pixels,
        )
        with stage_bars() as progress:
            measured = measure(llm, named, frames=sampling, chunk_frames=chunk_frames, progress=progress)
    document = measured.document(threshold)
    if out is not None:
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in document.items())
        write_whole(out, f"{{\n{lines}\n}}\n".encode())
    for note in measured.notes:
        log(f"note: {note}")
    _show(measured, document, top, out, as_json)


def check_clips(clips: list[str], sampling: FrameSampling) -> None:
    """Check that clips can be opened, and that none is given twice.

    Raises
    ------
    InputError, VideoError: see `check_video`.
    """
    named: dict[Path, str] = {}
    for clip in clips:
        check_video(clip, sampling)
        place = Path(clip).resolve()
        if place in named:
            raise InputError(f"{clip} is given twice (before as {named[place]}): leave it out once")
        named[place] = clip


def _check_out(out: Path, clips: list[str]) -> None:
    check_writable(out, "--out")
    if out.exists() and any(out.samefile(clip) for clip in clips):
        raise InputError(f"--out {out} is one of the clips: choose another file")


def _show(measured: MeasuredSinks, document: dict[str, Any], top: int, out: Path | None, as_json: bool) -> None:
    from tangovlm.models.common.sinks import released_for_grid

    released = released_for_grid(*measured.ranks.grid)
    rows = _rows(measured, document["positions"], released, top)
    if as_json:
        known = None if released is None else {"family": released.family, "source": released.source}
        show_json(document | {"rows": rows, "released": known, "out": None if out is None else str(out)})
        return
    _show_rows(rows, released)
    height, width = measured.ranks.grid
    found, several = len(document["positions"]), "" if measured.clips == 1 else "s"
    log(
        f"{measured.model}: {found} of {height * width} positions on the grid of {height} x {width} are sinks "
        f"({measured.saliency}, {measured.ranks.frames} frames of {measured.clips} clip{several})"
    )
    if out is not None:
        log(f"written: {out}")


def _rows(
    measured: MeasuredSinks, found: list[int], released: ReleasedSinks | None, top: int
) -> list[dict[str, object]]:
    """The highest positions, all sinks and all released positions, by mean rank minus standard deviation."""
    ranks = measured.ranks
    mean, sd = ranks.mean.tolist(), ranks.sd.tolist()
    known = () if released is None else released.positions
    order = ranks.order()
    listed = {*order[:top], *found, *known}
    return [
        {
            "position": place,
            "row": place // ranks.width,
            "column": place % ranks.width,
            "mean_rank": round(mean[place], 6),
            "sd_rank": round(sd[place], 6),
            "sink": place in found,
            "released": None if released is None else place in known,
        }
        for place in order
        if place in listed
    ]


def _show_rows(rows: list[dict[str, object]], released: ReleasedSinks | None) -> None:
    head = ["position", "row", "column", "mean rank", "SD", "sink"]
    if released is not None:
        head.append(f"released for {released.family}")
    table = []
    for row in rows:
        marks = [row["sink"]] + ([] if released is None else [row["released"]])
        cells = [str(row[name]) for name in ("position", "row", "column")]
        cells += [f"{row[name]:.3f}" for name in ("mean_rank", "sd_rank")]
        table.append(cells + ["yes" if mark else "" for mark in marks])
    show_table(head, table)
