"""`tangovlm bench profile`: where the time of a question goes, beside the authors' figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from tangovlm.errors import InputError
from tangovlm.report import check_writable, write_whole

from ..checks import check_video
from ..output import only_results, show, show_json, talk
from .bench import AsJson, DeviceName, Out, Retentions, Threads, check_counts, prepare


def profile(
    clips: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Video files, each asked about once a pass; left out, a clip made for the purpose.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="A model's folder or hub id; by default the embedded model.")
    ] = "tangovlm-tiny",
    method: Annotated[str, typer.Option(help="A method, or a pair such as tango+tango-fastv.")] = "tango",
    retention: Retentions = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames of a clip; left out, what the model is meant for.", show_default=False)
    ] = None,
    question: Annotated[str | None, typer.Option(help="What is asked.", show_default=False)] = None,
    words: Annotated[int, typer.Option(help="The longest answer, in tokens.")] = 32,
    repeats: Annotated[int, typer.Option(help="Passes over the clips that count, beside the warm-up.")] = 3,
    results: Annotated[
        Path | None,
        typer.Option(
            help="In place of clips, the folder of a finished `tangovlm reproduce fig9`: times and accuracy.",
            show_default=False,
        ),
    ] = None,
    device_name: DeviceName = None,
    threads: Threads = None,
    out: Out = None,
    csv: Annotated[Path | None, typer.Option(help="A CSV file to write.", show_default=False)] = None,
    markdown: Annotated[Path | None, typer.Option(help="A Markdown file to write.", show_default=False)] = None,
    picture: Annotated[
        Path | None, typer.Option(help="A picture to write (.png, .svg or .pdf), as Fig. 9.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Profile questions about clips, pruned and not: time by stage, memory, words a second; the authors' beside."""
    if clips and results is not None:
        raise InputError("clips and --results are both given: leave one of them out")
    for path, option in ((csv, "--csv"), (markdown, "--markdown"), (picture, "--picture")):
        if path is not None:
            check_writable(path, option)
    from tangovlm.bench.profile import bench as benchmark
    from tangovlm.bench.profile import files
    from tangovlm.bench.tables import aligned, append, read

    if picture is not None:
        files.check_picture(picture)
    check_counts("--frames", frames)
    check_counts("--words", words)
    for clip in clips or ():
        check_video(str(clip))
    device = prepare(device_name, repeats, threads, out)
    if out is not None and out.exists():
        read(out, "profile", benchmark.KEYS)
    rows: list[dict[str, Any]] = []
    with only_results(), _or_made(clips or []) as files_to_ask:
        measured = (
            files.read_results(results)
            if results is not None
            else benchmark.run(
                clips=files_to_ask,
                model=model,
                method=method,
                retentions=retention or benchmark.RETENTIONS,
                frames=frames,
                question=question or benchmark.QUESTION,
                words=words,
                repeats=repeats,
                device=device,
                progress=talk,
            )
        )
        for row in measured:
            rows.append(row)
            if out is not None:
                append(out, "profile", [row])
    if csv is not None:
        files.write_csv(csv, rows)
    if markdown is not None:
        write_whole(markdown, files.page(rows).encode())
    if picture is not None:
        files.draw(picture, rows)
    if as_json:
        show_json({"benchmark": "profile", "rows": rows, "authors": files.authors(), "note": files.AUTHORS_NOTE})
        return
    show(aligned([*rows, files.authors()], benchmark.COLUMNS))
    talk(files.AUTHORS_NOTE)


@contextmanager
def _or_made(clips: list[Path]) -> Iterator[list[Path]]:
    """The clips; in place of none, one that is rendered and gone afterwards."""
    if clips:
        yield clips
        return
    from tangovlm.tiny.clip import write_demo

    with TemporaryDirectory() as folder:
        made = Path(folder) / "clip.mp4"
        write_demo(made)
        yield [made]
