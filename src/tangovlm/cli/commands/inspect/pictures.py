"""The commands of `tangovlm inspect` that write a picture and a CSV file, one for each kind of picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tangovlm
from tangovlm.budget import validate_retention
from tangovlm.errors import InputError

from ...checks import check_at_least_one
from ...options import AsJson, Method, Retention
from .request import FOLDER, Files, NoPicture, OutputDir, Request, takes_clips

if TYPE_CHECKING:
    from tangovlm.methods.common.sink_list import SinkList

DRAWN = 24
"""`inspection.clips.DRAWN_CLIPS`, whose module imports torch."""

Show = Annotated[int, typer.Option("--show", help="Number of frames in the picture.")]
Drawn = Annotated[
    int, typer.Option("--drawn", help="Number of clips of the synthetic world to draw if no files are given.")
]
SinkTokens = Annotated[
    Path | None,
    typer.Option(
        help="File written by `tangovlm inspect sinks`: the positions of the sinks.",
        show_default="the known sinks of the model",
    ),
]


@takes_clips
def attention(
    request: Request,
    top: Annotated[int, typer.Option(help="Number of tokens to mark in each frame.")] = 10,
    show: Show = 4,
    sink_tokens: SinkTokens = None,
) -> None:
    """Draw the saliency of tokens over the frames of a clip: every kind that the model provides, with ranks.

    The CSV file has every token: score, share of its frame's sum, rank (0 to 1) and place in its frame.
    """
    check_at_least_one("--top", top)
    check_at_least_one("--show", show)
    request.check_paths()
    sinks = _sinks(sink_tokens)

    from tangovlm.inspection import attention as picture

    request.run(
        "attention",
        lambda llm, source, progress: picture.measure(llm, source, top=top, sinks=sinks, progress=progress),
        lambda measured: picture.draw(measured, show),
        one_clip=True,
    )


@takes_clips
def distribution(
    request: Request,
    share: Annotated[
        list[float] | None,
        typer.Option(
            help="Fraction of the tokens whose share of the attention is listed. Repeatable.",
            show_default="0.05, 0.1, 0.2 and 0.5",
        ),
    ] = None,
    drawn: Drawn = DRAWN,
) -> None:
    """Draw how the saliency of a frame is distributed: sorted scores, mean ± SD over clips, share of the top tokens."""
    check_at_least_one("--drawn", drawn)
    request.check_paths()
    from tangovlm.inspection import distribution as picture

    shares = picture.SHARES if share is None else tuple(sorted(set(share)))
    for each in shares:
        try:
            validate_retention(each)
        except InputError as error:
            raise InputError(f"--share is {each!r}: it must be in (0, 1]") from error
    request.run(
        "distribution",
        lambda llm, source, progress: picture.measure(llm, source, shares=shares, progress=progress),
        picture.draw,
        drawn=drawn,
    )


@takes_clips
def norms(
    request: Request,
    block: Annotated[
        int | None,
        typer.Option(
            help="Layer of the vision encoder whose steps are read, counted from 1.",
            show_default="the one that the saliency is taken from",
        ),
    ] = None,
    sink_tokens: Annotated[
        Path | None,
        typer.Option(
            help="File written by `tangovlm inspect sinks`: the positions of the sinks.",
            show_default="the known sinks of the model, else those found in the clips",
        ),
    ] = None,
    drawn: Drawn = DRAWN,
) -> None:
    """Draw norms of tokens along the layers of the vision encoder, and of sinks and other tokens at their quantiles."""
    check_at_least_one("--block", block)
    check_at_least_one("--drawn", drawn)
    request.check_paths()
    sinks = _sinks(sink_tokens)

    from tangovlm.inspection import norms as picture

    request.run(
        "norms",
        lambda llm, source, progress: picture.measure(llm, source, block=block, sinks=sinks, progress=progress),
        picture.draw,
        drawn=drawn,
    )


@takes_clips
def clusters(
    request: Request, method: Method = "tango", retention: Retention = 0.1, show: Show = 5, drawn: Drawn = DRAWN
) -> None:
    """Draw the clusters that a method merges, and count their pieces, with and without ST-RoPE.

    The frames are those of the first clip; means and their 95 % intervals (from 20 clips on) are over all clips.
    """
    check_at_least_one("--show", show)
    check_at_least_one("--drawn", drawn)
    validate_retention(retention)
    request.check_paths()
    pruner = tangovlm.method(method, retention=retention)
    from tangovlm.inspection import clusters as picture

    picture.check_before(pruner)
    request.run(
        "clusters",
        lambda llm, source, progress: picture.measure(llm, source, pruner, progress=progress),
        lambda measured: picture.draw(measured, show),
        drawn=drawn,
    )


@takes_clips
def compare(
    request: Request,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Method before the language model. Repeatable.",
            show_default="tango, fastvid, holitom, visionzip, divprune and topk",
        ),
    ] = None,
    retention: Retention = 0.1,
    show: Show = 6,
) -> None:
    """Draw what several methods keep of a clip, one row a method."""
    check_at_least_one("--show", show)
    validate_retention(retention)
    request.check_paths()
    from tangovlm.inspection import compare as picture
    from tangovlm.inspection.clusters import check_before

    names = picture.METHODS if method is None else tuple(method)
    if len(set(names)) < len(names):
        raise InputError("a method is given twice: leave it out once")
    pruners = [tangovlm.method(name, retention=retention) for name in names]
    for pruner in pruners:
        check_before(pruner)
    request.run(
        "compare",
        lambda llm, source, progress: picture.measure(
            llm, source, pruners, only_supported=method is None, progress=progress
        ),
        lambda measured: picture.draw(measured, show),
        one_clip=True,
    )


def decay(
    base_time: Annotated[
        list[float] | None,
        typer.Option(help="Base of the time block. Repeatable.", show_default="1e2, 1e3, 1e4 and 1e5"),
    ] = None,
    base_space: Annotated[
        list[float] | None,
        typer.Option(help="Base of the row and column blocks. Repeatable.", show_default="1e1, 1e2, 1e3 and 1e4"),
    ] = None,
    channels: Annotated[int, typer.Option(help="Channels of a token.")] = 3584,
    output_dir: OutputDir = FOLDER,
    no_picture: NoPicture = False,
    as_json: AsJson = False,
) -> None:
    """Draw how similar ST-RoPE leaves two equal tokens at a distance, for several bases. No clip is read."""
    files = Files("decay", output_dir, not no_picture)
    files.check()
    from tangovlm.inspection import decay as picture

    measured = picture.measure(
        channels=channels,
        time_bases=base_time or picture.TIME_BASES,
        space_bases=base_space or picture.SPACE_BASES,
    )
    files.write(measured, lambda: picture.draw(measured))
    files.show(measured, as_json, channels=channels)


def _sinks(file: Path | None) -> SinkList | None:
    from tangovlm.methods.common.sink_list import read_sinks

    return None if file is None else read_sinks(file)
