"""`tangovlm bench`: time, memory and FLOPs of pruning on this machine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..measuring import check_counts, check_out, finish, prepare, torch_dtype
from ..options import AsJson, DeviceName, Dtype, Method, Model, Out, Retention, Retentions, Threads
from ..output import log


class Video(StrEnum):
    """A kind of synthetic video (`bench.videos.KINDS`), or both of them."""

    STILL = "still"
    BUSY = "busy"
    BOTH = "both"


bench = typer.Typer()

_MAX_CONCURRENCY = 256
"""Each request at a time takes a thread."""

FeatureDtype = Annotated[
    Dtype | None,
    typer.Option(
        "--dtype",
        help="Number format of the features.",
        show_default="bfloat16 on CUDA, else float32; float16 for a video of over 1 GB",
    ),
]
ModelDtype = Annotated[
    Dtype | None,
    typer.Option("--dtype", help="Number format of the model.", show_default="bfloat16 on CUDA, else float32"),
]
Repeats = Annotated[int, typer.Option(help="Number of timed runs of each measurement, after the warm-up.")]
Size = Annotated[str, typer.Option(help="Size of the model: 7b, 0.5b or tiny.")]


@bench.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    """Measure time, memory and FLOPs on this machine."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@bench.command()
def prune(
    method: Method = "tango",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Frames, grid rows, grid columns and channels as T,H,W,D. Repeatable.",
            show_default="four sizes of 7B models",
        ),
    ] = None,
    retention: Retention = 0.1,
    video: Annotated[Video, typer.Option(help="Kind of synthetic video.")] = Video.BOTH,
    dtype: FeatureDtype = None,
    reference: Annotated[bool, typer.Option(help="Also time the plain reference implementation.")] = True,
    repeats: Repeats = 10,
    device_name: DeviceName = None,
    threads: Threads = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Time pruning alone, beside a plain reference, Tango and lower bounds."""
    device = prepare(device_name, repeats, threads, out)
    from tangovlm.bench import prune as benchmark
    from tangovlm.bench.videos import parse_shape

    rows = benchmark.run(
        method=method,
        shapes=[parse_shape(text) for text in shape or ()],
        videos=_videos(video),
        retention=retention,
        device=device,
        dtype=torch_dtype(dtype),
        repeats=repeats,
        reference=reference,
        progress=log,
    )
    finish("prune", benchmark, rows, out, as_json)


@bench.command()
def scale(
    shape: Annotated[str, typer.Option(help="Grid rows, grid columns and channels as H,W,D.")] = "14,14,896",
    frames: Annotated[int, typer.Option(help="Frames of the longest video; lengths double from 8 frames on.")] = 1024,
    batch: Annotated[
        int, typer.Option(help="Largest number of videos, pruned one after another; numbers double from 1 on.")
    ] = 8,
    retention: Retention = 0.1,
    video: Annotated[Video, typer.Option(help="Kind of synthetic video.")] = Video.STILL,
    dtype: FeatureDtype = None,
    repeats: Repeats = 5,
    device_name: DeviceName = None,
    threads: Threads = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Measure how time and memory of pruning grow with the length and the number of videos."""
    check_counts("--batch", batch)
    device = prepare(device_name, repeats, threads, out)
    from tangovlm.bench.prune import scale as benchmark

    longest = benchmark.check_frames(frames)
    check_counts("--frames", longest)
    rows = benchmark.run(
        grid=benchmark.parse_grid(shape),
        most_frames=longest,
        most_videos=batch,
        videos=_videos(video),
        retention=retention,
        device=device,
        dtype=torch_dtype(dtype),
        repeats=repeats,
        progress=log,
    )
    finish("scale", benchmark, rows, out, as_json)


@bench.command()
def ttft(
    size: Size = "7b",
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model architecture. Repeatable.", show_default="all"),
    ] = None,
    frames: Annotated[
        list[int] | None,
        typer.Option(help="Number of frames of a video. Repeatable.", show_default="as suits the size"),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Batch size in videos. Repeatable.", show_default="as suits the size"),
    ] = None,
    retention: Retentions = None,
    dtype: ModelDtype = None,
    repeats: Repeats = 5,
    device_name: DeviceName = None,
    threads: Threads = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Time the first token of whole models with random weights, stage by stage, pruned and unpruned."""
    check_counts("--frames", *(frames or ()))
    check_counts("--batch", *(batch or ()))
    device = prepare(device_name, repeats, threads, out)
    from tangovlm.bench import ttft as benchmark

    rows = benchmark.run(
        size=size,
        models=model or benchmark.MODELS,
        frames=frames or (),
        batches=batch or (),
        retentions=retention or benchmark.RETENTIONS,
        device=device,
        dtype=torch_dtype(dtype),
        repeats=repeats,
        progress=log,
    )
    finish("ttft", benchmark, rows, out, as_json)


@bench.command()
def questions(
    model: Model = None,
    method: Method = "tango",
    retention: Retentions = None,
    frames: Annotated[
        int | None, typer.Option(help="Number of frames to read.", show_default="the default of the model")
    ] = None,
    dtype: ModelDtype = None,
    repeats: Repeats = 5,
    device_name: DeviceName = None,
    threads: Threads = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Time several questions about one clip, asked alone and from one encoding."""
    check_counts("--frames", frames)
    device = prepare(device_name, repeats, threads, out)
    from tangovlm.bench import questions as benchmark

    rows = benchmark.run(
        model=model, method=method, retentions=retention or benchmark.RETENTIONS, frames=frames, device=device,
        dtype=torch_dtype(dtype), repeats=repeats, progress=log,
    )  # fmt: skip
    finish("questions", benchmark, rows, out, as_json)


@bench.command()
def batch(
    model: Model = None,
    method: Method = "tango",
    retention: Retentions = None,
    rows: Annotated[int, typer.Option(help="Number of questions.")] = 60,
    clips: Annotated[int, typer.Option(help="Number of clips that they are about.")] = 6,
    repeats: Repeats = 3,
    device_name: DeviceName = None,
    threads: Threads = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Time a corpus of questions, row by row and as `tangovlm batch` answers it, with one encoding of each clip."""
    check_counts("--rows", rows)
    check_counts("--clips", clips)
    device = prepare(device_name, repeats, threads, out)
    from tangovlm.bench import batch as benchmark

    found = benchmark.run(
        model=model, method=method, retentions=retention or benchmark.RETENTIONS, rows=rows, clips=clips,
        repeats=repeats, device=device, progress=log,
    )  # fmt: skip
    finish("batch", benchmark, found, out, as_json)


@bench.command()
def flops(
    size: Size = "7b",
    frames: Annotated[int, typer.Option(help="Number of frames of the video.")] = 32,
    retention: Retentions = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Count the FLOPs of LLaVA-OneVision, by the papers' formula and by PyTorch's counter."""
    check_counts("--frames", frames)
    check_out(out)
    from tangovlm.bench import flops as benchmark

    rows = benchmark.run(size=size, frames=frames, retentions=retention or benchmark.RETENTIONS, progress=log)
    finish("flops", benchmark, rows, out, as_json)


@bench.command()
def serve(
    frames: Annotated[int, typer.Option(help="Number of frames of a clip.")] = 64,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(help="Number of requests at the same time. Repeatable.", show_default="1, 4 and 16"),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(help="Number of requests per concurrency.", show_default="3 x concurrency, at least 10"),
    ] = None,
    retention: Annotated[
        list[float] | None,
        typer.Option(help="Fraction of the visual tokens to keep, in (0, 1]. Repeatable.", show_default="1 and 0.1"),
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Measure vLLM under load, pruned and unpruned: requests per second, time to first token, KV cache."""
    check_counts("--frames", frames)
    check_counts("--concurrency", *(concurrency or ()), most=_MAX_CONCURRENCY)
    check_counts("--requests", requests)
    check_out(out)
    from tangovlm.bench import server as benchmark

    rows = benchmark.run(
        frames=frames,
        concurrencies=concurrency or benchmark.CONCURRENCIES,
        retentions=retention or benchmark.RETENTIONS,
        requests=requests,
        progress=log,
    )
    finish("serve", benchmark, rows, out, as_json)


@bench.command()
def decode(
    files: Annotated[list[Path], typer.Argument(help="Video files.", show_default=False)],
    frames: Annotated[int, typer.Option(help="Number of frames, uniformly over each clip.")] = 32,
    repeats: Repeats = 5,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Time decoding of frames, exactly and by keyframes, beside decord, OpenCV and torchcodec if they are installed."""
    check_counts("--frames", frames)
    check_counts("--repeats", repeats)
    check_out(out)
    from tangovlm.bench import decode as benchmark

    finish("decode", benchmark, benchmark.run(files=files, frames=frames, repeats=repeats, progress=log), out, as_json)


def _videos(video: Video) -> list[str]:
    from tangovlm.bench.videos import KINDS

    return list(KINDS) if video is Video.BOTH else [video.value]
