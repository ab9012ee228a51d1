"""`tangovlm vlmeval`: VLMEvalKit on our models; it registers them in the harness and hands over to its `run.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tangovlm.errors import InputError

from ..checks import check_at_least_one
from ..output import only_results, show, show_json, talk

if TYPE_CHECKING:
    from tangovlm.evaluate.harness.vlmevalkit.results import Score


def vlmeval(
    data: Annotated[
        list[str],
        typer.Option(help="A data preset such as Video-MME_32frame, or Video-MME with --frames; may be given again."),
    ],
    model: Annotated[str, typer.Option(help="A model's folder or hub id; tangovlm-tiny is the embedded one.")],
    method: Annotated[
        str, typer.Option(help="How to reduce the tokens; tango-release is the authors' code.")
    ] = "tango",
    retention: Annotated[
        float, typer.Option(help="The fraction of the visual tokens to keep, in (0, 1]; 1 is the unpruned model.")
    ] = 0.1,
    frames: Annotated[
        int | None, typer.Option(help="How many frames to take; left out, the preset's.", show_default=False)
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="A setting such as in_llm=fastv or dtype=bfloat16, or a parameter of the method such as "
            "context_ratio=0.4; may be given again.",
            show_default=False,
        ),
    ] = None,
    work_dir: Annotated[Path, typer.Option(help="Where VLMEvalKit writes its results.")] = Path("outputs"),
    limit: Annotated[
        int | None, typer.Option(help="Only so many questions of each data set.", show_default=False)
    ] = None,
    reuse: Annotated[bool, typer.Option("--reuse", help="Go on with what is in the work directory.")] = False,
    data_dir: Annotated[
        list[Path] | None,
        typer.Option(
            help="A directory that holds data sets, as DIR/Video-MME/Video-MME.tsv; may be given again.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer, in tokens.")] = 64,
    vlmevalkit: Annotated[
        Path | None, typer.Option(help="A checkout of VLMEvalKit; left out, the installed one.", show_default=False)
    ] = None,
    untested: Annotated[bool, typer.Option("--untested", help="Take an untested version of VLMEvalKit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON; all talk on stderr.")] = False,
    extra: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- OPTIONS]", help="Further options of VLMEvalKit's run.py.", show_default=False),
    ] = None,
) -> None:
    """Evaluate a model in VLMEvalKit, its videos pruned."""
    check_at_least_one("--limit", limit)
    check_at_least_one("--frames", frames)
    _check_extra(extra or [])
    with only_results():
        from tangovlm.evaluate.harness.requests import Limits
        from tangovlm.evaluate.harness.settings import Settings
        from tangovlm.evaluate.harness.vlmevalkit import launcher as harness
        from tangovlm.evaluate.harness.vlmevalkit.data import preset

        given = _params(param or [])
        settings = Settings.read(pretrained=model, method=method, retention=retention, frames=frames, **given)
        if settings.fps is not None:
            raise InputError("--param fps: VLMEvalKit's presets take a number of frames; leave it out")
        task = harness.Task(
            settings,
            presets=list(dict.fromkeys(preset(name, frames) for name in data)),
            work_dir=work_dir,
            limit=limit,
            reuse=reuse,
            roots=data_dir or [],
            limits=Limits(max_new_tokens=max_new_tokens),
            extra=extra or [],
        )
        scores = harness.run(harness.find(vlmevalkit, untested), task)
    if scores is not None:
        _show(scores, task.directory, as_json)


_OURS = {
    "--model": "it is an option of tangovlm vlmeval too: give it before the --",
    "--data": "it is an option of tangovlm vlmeval too: give it before the --",
    "--work-dir": "it is an option of tangovlm vlmeval too: give it before the --",
    "--reuse": "it is an option of tangovlm vlmeval too: give it before the --",
    "--limit": "it is an option of tangovlm vlmeval too: give it before the --",
    "--config": "model and data are registered by name: leave it out",
    "--api-mode": "the model runs in this process: leave it out",
    "--base-url": "the model runs in this process: leave it out",
    "--use-vllm": "give --param backend=vllm before the --",
}


def _check_extra(extra: list[str]) -> None:
    for word in extra:
        option = word.partition("=")[0]
        if option in _OURS:
            raise InputError(f"{option} cannot be handed to run.py: {_OURS[option]}")


def _params(words: list[str]) -> dict[str, Any]:
    given = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key.isidentifier() or not equals:
            raise InputError(f"--param is {word!r}: give key=value, such as context_ratio=0.4")
        if key in ("pretrained", "method", "retention", "frames"):
            option = "model" if key == "pretrained" else key
            raise InputError(f"--param cannot set {key}: use --{option}")
        given[key] = value
    return given


def _show(scores: dict[str, list[Score]], directory: Path, as_json: bool) -> None:
    from tangovlm.evaluate.harness.vlmevalkit.results import accuracy

    rows = [(name, len(found), accuracy(found)) for name, found in scores.items() if found]
    if as_json:
        named = [dict(zip(("data", "questions", "accuracy"), row, strict=True)) for row in rows]
        show_json({"directory": str(directory), "rows": named})
        return
    for name, questions, right in rows:
        show(f"{name}: {100 * right:.1f} % of {questions} questions")
    talk(f"results: {directory}")
