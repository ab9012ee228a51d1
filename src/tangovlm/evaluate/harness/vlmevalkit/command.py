"""The command line of `tangovlm vlmeval` for given settings."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tangovlm.errors import InputError

from ..settings import Settings


def command_line(
    settings: Settings,
    data: Sequence[str],
    work_dir: str | Path,
    limit: int | None = None,
    processes: int = 1,
    data_dir: str | Path | None = None,
) -> list[str]:
    """The command line of one run, which continues an interrupted run.

    `RunDirectory(work_dir, settings).scores(preset)` returns the results of the run, question by question.

    Parameters
    ----------
    data: presets, such as "Video-MME_32frame".
    limit: number of questions per data set; None for all.
    processes: with more than one, torchrun distributes the questions over processes with a GPU each.
    data_dir: directory of local data sets, see `presets.DATA_SETS`.

    Raises
    ------
    InputError: a setting whose value cannot be written on a command line.

    Example
    -------
    >>> " ".join(command_line(Settings("tangovlm-tiny", retention=0.2), ["Video-MME_32frame"], "out", limit=20))
    'tangovlm vlmeval --model tangovlm-tiny --method tango --retention 0.2 --data Video-MME_32frame --work-dir out \
--reuse --limit 20'
    """
    start = ["tangovlm"]
    if processes > 1:
        start = ["torchrun", "--standalone", f"--nproc-per-node={processes}", "-m", "tangovlm"]
    named = ["--model", settings.pretrained, "--method", settings.method, "--retention", str(settings.retention)]
    if settings.frames is not None:
        named += ["--frames", str(settings.frames)]
    presets = [word for name in data for word in ("--data", name)]
    presets += [] if data_dir is None else ["--data-dir", str(data_dir)]
    tail = [] if limit is None else ["--limit", str(limit)]
    return [*start, "vlmeval", *named, *_params(settings), *presets, "--work-dir", str(work_dir), "--reuse", *tail]


def _params(settings: Settings) -> list[str]:
    """Every other setting that differs from its default, as `--param key=value`."""
    named = {"pretrained": settings.pretrained, "method": settings.method, "retention": settings.retention}
    defaults = Settings(settings.pretrained).as_dict()
    others = {
        name: str(value)
        for name, value in (settings.as_dict() | dict(settings.params)).items()
        if name not in (*named, "frames", "params", "vllm") and not (name in defaults and value == defaults[name])
    }
    if replace(Settings.read(**named, **others), frames=settings.frames) != settings:
        raise InputError(f"{settings} cannot be written as a command line: its parameters must be numbers or words")
    return [word for name, value in others.items() for word in ("--param", f"{name}={value}")]
