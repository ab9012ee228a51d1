"""`tangovlm vlmeval`: register a pruned model in VLMEvalKit, then run its `run.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tangovlm.errors import InputError

from ..checks import check_at_least_one
from ..options import AsJson, MaxNewTokens
from ..output import log, only_results, show, show_json

if TYPE_CHECKING:
    from tangovlm.evaluate.harness.vlmevalkit.results import Score


def vlmeval(
    data: Annotated[
        list[str],
        typer.Option(help="Data preset such as Video-MME_32frame, or Video-MME with --frames. Repeatable."),
    ],
    model: Annotated[
        str, typer.Option(help="Directory or Hugging Face id of the model; tangovlm-tiny is the embedded model.")
    ],
    method: Annotated[str, typer.Option(help="Pruning method; tango-release reproduces the authors' code.")] = "tango",
    retention: Annotated[
        float, typer.Option(help="Fraction of the visual tokens to keep, in (0, 1]; 1 is the unpruned model.")
    ] = 0.1,
    frames: Annotated[
        int | None, typer.Option(help="Number of frames to sample from a video.", show_default="the preset's")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="Setting such as in_llm=fastv or dtype=bfloat16, or a parameter of the method such as "
            "context_ratio=0.4. Repeatable.",
            show_default=False,
        ),
    ] = None,
    work_dir: Annotated[Path, typer.Option(help="Directory that VLMEvalKit writes its results into.")] = Path(
        "outputs"
    ),
    limit: Annotated[int | None, typer.Option(help="Number of questions of each data set.", show_default="all")] = None,
    reuse: Annotated[bool, typer.Option("--reuse", help="Continue from the results in the work directory.")] = False,
    data_dir: Annotated[
        list[Path] | None,
        typer.Option(
            help="Directory of data sets, such as DIR/Video-MME/Video-MME.tsv. Repeatable.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: MaxNewTokens = 64,
    vlmevalkit: Annotated[
        Path | None, typer.Option(help="Checkout of VLMEvalKit.", show_default="the installed package")
    ] = None,
    untested: Annotated[bool, typer.Option("--untested", help="Accept an untested version of VLMEvalKit.")] = False,
    as_json: AsJson = False,
    extra: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- OPTIONS]", help="Further options of VLMEvalKit's run.py.", show_default=False),
    ] = None,
) -> None:
    """Evaluate a model with pruned videos in VLMEvalKit."""
    check_at_least_one("--limit", limit)
    check_at_least_one("--frames", frames)
    _check_extra(extra or [])
    with only_results():
        from tangovlm.evaluate.harness.requests import GenerationOptions
        from tangovlm.evaluate.harness.settings import Settings
        from tangovlm.evaluate.harness.vlmevalkit.installation import find
        from tangovlm.evaluate.harness.vlmevalkit.launcher import EvaluationRun, launch
        from tangovlm.evaluate.harness.vlmevalkit.presets import preset_name

        given = _params(param or [])
        settings = Settings.read(pretrained=model, method=method, retention=retention, frames=frames, **given)
        if settings.fps is not None:
            raise InputError("--param fps: VLMEvalKit's presets take a number of frames; leave it out")
        run = EvaluationRun(
            settings,
            presets=list(dict.fromkeys(preset_name(name, frames) for name in data)),
            work_dir=work_dir,
            limit=limit,
            reuse=reuse,
            roots=data_dir or [],
            options=GenerationOptions(max_new_tokens=max_new_tokens),
            extra=extra or [],
        )
        scores = launch(find(vlmevalkit, untested), run)
    if scores is not None:
        _show(scores, run.directory, as_json)


_OUR_OPTION = "it is an option of tangovlm vlmeval too: give it before the --"
_REFUSED = {
    "--model": _OUR_OPTION,
    "--data": _OUR_OPTION,
    "--work-dir": _OUR_OPTION,
    "--reuse": _OUR_OPTION,
    "--limit": _OUR_OPTION,
    "--config": "model and data are registered by name: leave it out",
    "--api-mode": "the model runs in this process: leave it out",
    "--base-url": "the model runs in this process: leave it out",
    "--use-vllm": "give --param backend=vllm before the --",
}


def _check_extra(extra: list[str]) -> None:
    for word in extra:
        option = word.partition("=")[0]
        if option in _REFUSED:
            raise InputError(f"{option} cannot be passed to run.py: {_REFUSED[option]}")


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
    log(f"results: {directory}")
