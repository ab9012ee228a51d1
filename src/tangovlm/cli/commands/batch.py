"""`tangovlm batch`: questions about a corpus of clips, from a file of JSON lines into another."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tangovlm.budget import validate_retention
from tangovlm.errors import InputError
from tangovlm.methods import build

from ..checks import check_at_least_one, device
from ..output import complain, only_results, show_json, talk
from .ask import Dtype, Saliency

if TYPE_CHECKING:
    from tangovlm.batch.engine import Engine
    from tangovlm.batch.rows import Corpus

    Said: TypeAlias = Mapping[str, object]
    Start: TypeAlias = Callable[[], Engine]

DEFAULT_METHOD, DEFAULT_RETENTION = "tango", 0.1
GAVE_UP = 1
"""Exit status where a server did not come back, or an engine died."""
_LINE_SECONDS = 30.0


class EngineName(StrEnum):
    """What answers."""

    AUTO = "auto"
    VLLM = "vllm"
    TRANSFORMERS = "transformers"


class Media(StrEnum):
    """How a server gets videos."""

    BASE64 = "base64"
    PATH = "path"


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help='JSON lines: {"id": ..., "video": path, "question": ...}.', show_default=False
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(metavar="OUTPUT", help="JSON lines; rows found there are not asked again.", show_default=False),
    ],
    extra: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- VLLM-OPTIONS", help="Any options of vLLM's engine.", show_default=False),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model's folder or hub id; left out, the embedded model.", show_default=False)
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="How to reduce the tokens, see `tangovlm methods`; left out, tango.", show_default=False),
    ] = None,
    retention: Annotated[
        float | None,
        typer.Option(
            help="The fraction of the visual tokens to keep, in (0, 1], for rows that do not say; left out, 0.1, or "
            "what a server does by itself.",
            show_default=False,
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="How many frames to take; left out, the model's own number.", show_default=False),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer, in tokens.")] = 64,
    saliency: Annotated[
        Saliency | None,
        typer.Option(help="The signal that says which tokens matter; left out, the method's own.", show_default=False),
    ] = None,
    head_weights: Annotated[
        str | None,
        typer.Option(help="A checkpoint (path or hub id) with the pooling head for p-attn.", show_default=False),
    ] = None,
    device_name: Annotated[
        str | None, typer.Option("--device", help="Where to run, such as cpu or cuda.", show_default=False)
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="The model's number format.", show_default=False)] = None,
    video_root: Annotated[
        Path | None,
        typer.Option(help="The folder that relative paths start from; left out, this one.", show_default=False),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many rows.", show_default=False)] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask rows again that failed.")] = False,
    engine: Annotated[
        EngineName, typer.Option(help="What answers; auto is vLLM where it is installed and knows the model.")
    ] = EngineName.AUTO,
    concurrency: Annotated[int, typer.Option(help="Clips in vLLM, or requests to a server, at a time.")] = 16,
    ray: Annotated[bool, typer.Option("--ray", help="Spread engines over machines with Ray Data.")] = False,
    workers: Annotated[int, typer.Option(help="With --ray: how many engines.")] = 1,
    server: Annotated[
        str | None, typer.Option(help="Ask a running server with the OpenAI API, by its URL.", show_default=False)
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Of the server.", envvar="OPENAI_API_KEY", show_default=False)
    ] = None,
    media: Annotated[
        Media, typer.Option(help="How the server gets videos: within requests, or by paths that it may read.")
    ] = Media.BASE64,
    give_up: Annotated[float, typer.Option(help="Seconds to wait for a server that is gone.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON; all talk on stderr.")] = False,
) -> None:
    """Ask questions about many videos; give the command again after a kill, and it goes on."""
    for option, count in (
        ("--frames", frames), ("--max-new-tokens", max_new_tokens), ("--limit", limit),
        ("--concurrency", concurrency), ("--workers", workers),
    ):  # fmt: skip
        check_at_least_one(option, count)
    _check_files(source, target)
    chosen = _retention(method, retention, server)
    with only_results(), _children_on_stderr():
        from tangovlm.batch.rows import Corpus, Task

        corpus = Corpus(source, Task("", "", "", chosen, max_new_tokens, str(video_root or "")), limit)
        if server is not None:
            _check_alone(method=method, saliency=saliency, head_weights=head_weights, device=device_name, dtype=dtype,
                         ray=ray, extra=extra)  # fmt: skip
            said, start = _server(
                server, api_key, model, frames=frames, retention=retention, concurrency=concurrency,
                media=media.value, give_up_s=give_up,
            )  # fmt: skip
        else:
            said, start = _local(
                engine, workers if ray else None, model=model, method=method or DEFAULT_METHOD, retention=chosen,
                saliency=None if saliency is None else saliency.value, head_weights=head_weights, frames=frames,
                device=device(device_name), dtype=None if dtype is None else dtype.value, concurrency=concurrency,
                extra=tuple(extra or ()),
            )  # fmt: skip
        summary = _answer(corpus, target, retry_failed, said, start)
    if as_json:
        show_json(summary)


def _check_files(source: Path, target: Path) -> None:
    if not source.is_file():
        raise InputError(f"INPUT {source} is no file: give JSON lines with a video and a question each")
    if target.exists() and target.samefile(source):
        raise InputError(f"OUTPUT {target} is INPUT itself: give another name")


def _retention(method: str | None, retention: float | None, server: str | None) -> float | None:
    """Of rows that do not say; None for what a server does by itself.

    Raises
    ------
    TangoError: out of its range, or an unknown method.
    """
    if server is None:
        retention = DEFAULT_RETENTION if retention is None else retention
        build.method(method or DEFAULT_METHOD, retention=retention)
        return retention
    return None if retention is None else validate_retention(retention)


def _check_alone(**given: object) -> None:
    """Refuse options that a server has made up its mind about."""
    for name, value in given.items():
        if value:
            option = "an option of vLLM" if name == "extra" else f"--{name.replace('_', '-')}"
            raise InputError(f"{option} does not go with --server, which has its own: leave it out")


def _server(url: str, key: str | None, model: str | None, **options: Any) -> tuple[Said, Start]:
    from tangovlm.batch.api import Api
    from tangovlm.batch.server import Server

    with _gives_up():
        remote = Server(Api(url, key), model, tell=talk, **options)
    return {"model": remote.model, "method": None, "settings": _given(options, "frames")}, lambda: remote


def _local(name: EngineName, workers: int | None, **options: Any) -> tuple[Said, Start]:
    from tangovlm.batch.choice import Settings, check, decide
    from tangovlm.batch.in_ray import InRay, check_ray

    settings = Settings(**options)
    kind, reason = decide(settings) if name is EngineName.AUTO else (name.value, "")
    settings = replace(settings, kind=kind)
    check(settings)
    if workers is not None:
        check_ray()

    def start() -> Engine:
        if reason:
            talk(f"note: answering with transformers, one clip after another: {reason}")
        if settings.model is None:
            from tangovlm.pipeline.ask import BUILTIN_NOTE

            talk(f"note: {BUILTIN_NOTE}")
        return settings.build() if workers is None else InRay(settings, workers)

    said = _given(options, "frames", "saliency", "head_weights")
    return {"model": settings.name, "method": settings.method, "settings": said}, start


def _given(options: Mapping[str, Any], *names: str) -> Said:
    """Those of the options that are not left out."""
    return {name: options[name] for name in names if options[name] is not None}


def _answer(corpus: Corpus, target: Path, retry_failed: bool, said: Said, start: Start) -> dict[str, object]:
    """Ask what is missing, and sum up."""
    from tangovlm.batch.output import Output
    from tangovlm.batch.run import plan, run

    with _gives_up(), Output(target, forget_failed=retry_failed) as output:
        todo = plan(corpus, output, said)
        if todo.waiting:
            with _bar(todo.rows, todo.rows - todo.waiting) as progress:
                run(corpus, output, start, said, progress)
        failed = output.failed
        answered = len(output.done) - failed
    again = "; --retry-failed asks these again" if failed else ""
    talk(f"{target}: {answered} rows answered, {failed} failed{again}")
    return {"output": str(target), "rows": todo.rows, "asked": todo.waiting, "answered": answered, "failed": failed}


@contextmanager
def _gives_up() -> Iterator[None]:
    """Within it an engine that is gone ends the command with one line and a status of its own."""
    from tangovlm.batch.engine import EngineGoneError

    try:
        yield
    except EngineGoneError as error:
        complain(str(error))
        raise typer.Exit(GAVE_UP) from error


@contextmanager
def _children_on_stderr() -> Iterator[None]:
    """Within it the file of stdout is that of stderr: processes of an engine write their logs to the file itself."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def _bar(total: int, done: int) -> Iterator[Callable[[int, int], None]]:
    """A bar of rows on stderr; where that is no terminal, a line now and then."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    last = time.monotonic()
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("rows", total=total, completed=done)

        def advance(rows: int, failed: int) -> None:
            nonlocal last
            words = f"rows, {failed} failed" if failed else "rows"
            progress.update(bar, completed=done + rows, description=words)
            if not console.is_terminal and time.monotonic() - last > _LINE_SECONDS:
                last = time.monotonic()
                talk(f"{done + rows} of {total} {words}")

        yield advance
