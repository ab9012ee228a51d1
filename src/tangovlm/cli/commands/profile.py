"""`tangovlm bench profile`: the time of each stage of a question, with the authors' figures for comparison."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from tangovlm.errors import InputError
from tangovlm.report import check_writable, write_whole

from ..checks import check_video
from ..measuring import check_counts, collect, prepare, show_rows
from ..options import AsJson, DeviceName, Method, Out, Retentions, Threads
from ..output import log, only_results, show_json


def profile(
    clips: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Video files; every pass asks about each of them once.",
            show_default="a rendered clip",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Directory or Hugging Face id of the model; tangovlm-tiny is the embedded model.")
    ] = "tangovlm-tiny",
    method: Method = "tango",
    retention: Retentions = None,
    frames: Annotated[
        int | None, typer.Option(help="Number of frames to sample from a clip.", show_default="the model's own number")
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Question about each clip.", show_default="Describe the video in detail.")
    ] = None,
    words: Annotated[int, typer.Option(help="Maximum length of an answer, in tokens.")] = 32,
    repeats: Annotated[int, typer.Option(help="Number of timed passes over the clips, after the warm-up.")] = 3,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Directory of a finished `tangovlm reproduce fig9` to read times and accuracy from, instead of clips.",
            show_default=False,
        ),
    ] = None,
    device_name: DeviceName = None,
    threads: Threads = None,
    out: Out = None,
    csv: Annotated[Path | None, typer.Option(help="CSV file to write.", show_default=False)] = None,
    markdown: Annotated[Path | None, typer.Option(help="Markdown file to write.", show_default=False)] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Plot to write (.png, .svg or .pdf), like Fig. 9 of the paper.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Profile questions about clips, pruned and unpruned: time per stage, memory, tokens per second."""
    if clips and results is not None:
        raise InputError("clips and --results are both given: leave one of them out")
    for path, option in ((csv, "--csv"), (markdown, "--markdown"), (picture, "--picture")):
        if path is not None:
            check_writable(path, option)
    from tangovlm.bench import profile as benchmark
    from tangovlm.bench.profile import files

    if picture is not None:
        files.check_picture(picture)
    check_counts("--frames", frames)
    check_counts("--words", words)
    for clip in clips or ():
        check_video(str(clip))
    device = prepare(device_name, repeats, threads, out)
    with only_results(), _or_rendered(clips or []) as videos:
        measured = (
            files.read_results(results)
            if results is not None
            else benchmark.run(
                clips=videos,
                model=model,
                method=method,
                retentions=retention or benchmark.RETENTIONS,
                frames=frames,
                question=question or benchmark.QUESTION,
                words=words,
                repeats=repeats,
                device=device,
                progress=log,
            )
        )
        rows = collect("profile", benchmark, measured, out)
    if csv is not None:
        files.write_csv(csv, rows)
    if markdown is not None:
        write_whole(markdown, files.page(rows).encode())
    if picture is not None:
        files.draw(picture, rows)
    if as_json:
        show_json({"benchmark": "profile", "rows": rows, "authors": files.authors(), "note": files.AUTHORS_NOTE})
        return
    show_rows([*rows, files.authors()], benchmark)
    log(files.AUTHORS_NOTE)


@contextmanager
def _or_rendered(clips: list[Path]) -> Iterator[list[Path]]:
    """Yield the clips; if there are none, render one and delete it on exit."""
    if clips:
        yield clips
        return
    from tangovlm.tiny.clip import write_demo

    with TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_demo(clip)
        yield [clip]
