"""`tangovlm bench`: time, memory and FLOPs of pruning on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from tangovlm.errors import InputError
from tangovlm.report import check_writable

from ..checks import check_at_least_one, device
from ..output import only_results, show, show_json, talk

if TYPE_CHECKING:
    import torch

    from tangovlm.bench.tables import Column


class Video(StrEnum):
    """`bench.prune.videos.KINDS`, or all of them."""

    STILL = "still"
    BUSY = "busy"
    BOTH = "both"


class Dtype(StrEnum):
    """Number formats of features."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class Benchmark(Protocol):
    """The module of a benchmark: what tells its rows apart, and the columns of its table."""

    @property
    def KEYS(self) -> Sequence[str]: ...  # noqa: N802

    @property
    def COLUMNS(self) -> Sequence[Column]: ...  # noqa: N802


bench = typer.Typer()

_MOST = 10**6
_MOST_THREADS = 4 * (os.cpu_count() or 1)
"""More than any measurement wants, and less than what cannot be counted or started any more."""
_MOST_AT_A_TIME = 256
"""A thread each."""

DeviceName = Annotated[
    str | None, typer.Option("--device", help="Where to run: cpu, or cuda (if there, the default).", show_default=False)
]
DtypeName = Annotated[
    Dtype | None,
    typer.Option(
        help="Number format; left out: bfloat16 on CUDA, else float32, and float16 for a video of over 1 GB.",
        show_default=False,
    ),
]
Out = Annotated[Path | None, typer.Option(help="A file of JSON lines to add the rows to.", show_default=False)]
Repeats = Annotated[int, typer.Option(help="Runs of each measurement, beside the warm-up.")]
Retention = Annotated[float, typer.Option(help="The fraction to keep.")]
Retentions = Annotated[
    list[float] | None,
    typer.Option(help="A fraction to keep; may be given again. Left out: 1, 0.2, 0.15 and 0.1.", show_default=False),
]
Size = Annotated[str, typer.Option(help="Of the model: 7b, 0.5b, or tiny.")]
Threads = Annotated[int | None, typer.Option(help="Threads to compute with.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON; all talk on stderr.")]


@bench.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    """Measure time, memory and FLOPs on this machine."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@bench.command()
def prune(
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Frames, rows, columns and channels as T,H,W,D; may be given again. Left out: four sizes.",
            show_default=False,
        ),
    ] = None,
    retention: Retention = 0.1,
    video: Annotated[Video, typer.Option(help="What the synthetic video shows.")] = Video.BOTH,
    dtype: DtypeName = None,
    reference: Annotated[bool, typer.Option(help="Measure the plain reference too.")] = True,
    repeats: Repeats = 10,
    device_name: DeviceName = None,
    threads: Threads = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Pruning alone, from visual tokens to the kept ones, beside a plain reference and the least work there is."""
    target = prepare(device_name, repeats, threads, out)
    from tangovlm.bench.prune import bench as benchmark
    from tangovlm.bench.prune.videos import parse_shape

    rows = benchmark.run(
        shapes=[parse_shape(text) for text in shape or ()],
        videos=_videos(video),
        retention=retention,
        device=target,
        dtype=_dtype(dtype),
        repeats=repeats,
        reference=reference,
        progress=talk,
    )
    _finish("prune", benchmark, rows, out, as_json)


@bench.command()
def scale(
    shape: Annotated[str, typer.Option(help="Rows, columns and channels as H,W,D.")] = "14,14,896",
    frames: Annotated[int, typer.Option(help="The longest video; from 8 frames on, each twice as long.")] = 1024,
    batch: Annotated[int, typer.Option(help="The most videos one after another; from 1 on, each twice as many.")] = 8,
    retention: Retention = 0.1,
    video: Annotated[Video, typer.Option(help="What the synthetic videos show.")] = Video.STILL,
    dtype: DtypeName = None,
    repeats: Repeats = 5,
    device_name: DeviceName = None,
    threads: Threads = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """How time and memory of pruning grow with the frames of a video, and with the number of videos."""
    check_counts("--batch", batch)
    target = prepare(device_name, repeats, threads, out)
    from tangovlm.bench.prune import scale as benchmark

    longest = benchmark.check_frames(frames)
    check_counts("--frames", longest)
    rows = benchmark.run(
        grid=benchmark.parse_grid(shape),
        most_frames=longest,
        most_videos=batch,
        videos=_videos(video),
        retention=retention,
        device=target,
        dtype=_dtype(dtype),
        repeats=repeats,
        progress=talk,
    )
    _finish("scale", benchmark, rows, out, as_json)


@bench.command()
def ttft(
    size: Size = "7b",
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model; may be given again. Left out: every one that is known.", show_default=False),
    ] = None,
    frames: Annotated[
        list[int] | None,
        typer.Option(help="Frames of a video; may be given again. Left out: what suits the size.", show_default=False),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Videos at a time; may be given again. Left out: what suits the size.", show_default=False),
    ] = None,
    retention: Retentions = None,
    dtype: DtypeName = None,
    repeats: Repeats = 5,
    device_name: DeviceName = None,
    threads: Threads = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Time to first token of whole models with random weights, pruned and not, stage by stage."""
    check_counts("--frames", *(frames or ()))
    check_counts("--batch", *(batch or ()))
    target = prepare(device_name, repeats, threads, out)
    from tangovlm.bench.ttft import bench as benchmark

    rows = benchmark.run(
        size=size,
        models=model or benchmark.MODELS,
        frames=frames or (),
        batches=batch or (),
        retentions=retention or benchmark.RETENTIONS,
        device=target,
        dtype=_dtype(dtype),
        repeats=repeats,
        progress=talk,
    )
    _finish("ttft", benchmark, rows, out, as_json)


@bench.command()
def flops(
    size: Size = "7b",
    frames: Annotated[int, typer.Option(help="Frames of the video.")] = 32,
    retention: Retentions = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """FLOPs of LLaVA-OneVision: the papers' formula beside what PyTorch counts."""
    check_counts("--frames", frames)
    check_out(out)
    from tangovlm.bench import flops as benchmark

    rows = benchmark.run(size=size, frames=frames, retentions=retention or benchmark.RETENTIONS, progress=talk)
    _finish("flops", benchmark, rows, out, as_json)


@bench.command()
def serve(
    frames: Annotated[int, typer.Option(help="Frames of a clip.")] = 64,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(help="Requests at a time; may be given again. Left out: 1, 4 and 16.", show_default=False),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(help="Requests of a level. Left out: three for each at a time, at least 10.", show_default=False),
    ] = None,
    retention: Annotated[
        list[float] | None,
        typer.Option(help="A fraction to keep; may be given again. Left out: 1 and 0.1.", show_default=False),
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Load on vLLM's OpenAI API, with and without pruning: requests a second, time to first token, KV blocks."""
    check_counts("--frames", frames)
    check_counts("--concurrency", *(concurrency or ()), most=_MOST_AT_A_TIME)
    check_counts("--requests", requests)
    check_out(out)
    from tangovlm.bench.server import bench as benchmark

    rows = benchmark.run(
        frames=frames,
        concurrencies=concurrency or benchmark.CONCURRENCIES,
        retentions=retention or benchmark.RETENTIONS,
        requests=requests,
        progress=talk,
    )
    _finish("serve", benchmark, rows, out, as_json)


def prepare(device_name: str | None, repeats: int, threads: int | None, out: Path | None) -> torch.device:
    """Check what all commands take, set the threads, and return the device."""
    check_counts("--repeats", repeats)
    check_counts("--threads", threads, most=_MOST_THREADS)
    check_out(out)
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    target = torch.device(device(device_name) or ("cuda" if torch.cuda.is_available() else "cpu"))
    if target.type not in {"cpu", "cuda"}:
        raise InputError(f"--device {device_name} cannot be measured: choose cpu or cuda")
    return target


def check_counts(option: str, *values: int | None, most: int = _MOST) -> None:
    """Raise `InputError` for a count below one or above ``most``."""
    for value in values:
        check_at_least_one(option, value)
        if value is not None and value > most:
            raise InputError(f"{option} is {value}: it can be at most {most}")


def check_out(out: Path | None) -> None:
    if out is not None:
        check_writable(out, "--out")


def _videos(video: Video) -> list[str]:
    from tangovlm.bench.prune.videos import KINDS

    return list(KINDS) if video is Video.BOTH else [video.value]


def _dtype(name: Dtype | None) -> torch.dtype | None:
    import torch

    found: torch.dtype | None = None if name is None else getattr(torch, name.value)
    return found


def _finish(
    name: str, benchmark: Benchmark, measured: Iterable[dict[str, Any]], out: Path | None, as_json: bool
) -> None:
    """Take the rows, writing each to the file at once, and show them; a file of other rows is refused before."""
    from tangovlm.bench.tables import aligned, append, read

    if out is not None and out.exists():
        read(out, name, benchmark.KEYS)
    rows = []
    with only_results():
        for row in measured:
            rows.append(row)
            if out is not None:
                append(out, name, [row])
    if as_json:
        show_json({"benchmark": name, "rows": rows})
        return
    show(aligned(rows, benchmark.COLUMNS))
