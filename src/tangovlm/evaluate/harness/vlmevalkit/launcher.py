"""VLMEvalKit with our models: finds the harness, registers model and data presets in it, hands over to its `run.py`.

VLMEvalKit has no plug-in mechanism. Its registries are two dictionaries, `supported_VLM` and
`supported_video_datasets`; entries are added to them in the process that then executes `run.py`. Nothing of it is
copied, and nothing of it is replaced.
"""

import importlib.util
import os
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError

from .. import versions
from ..requests import Limits
from ..settings import Settings
from . import data as data_sets
from . import model as models
from .results import RunDir, Score, check_finished, model_name

DISTRIBUTION = "ms-vlmeval"
INSTALL = f"pip install {DISTRIBUTION}=={versions.TESTED[DISTRIBUTION]}"
TESTED_CHECKOUT = "0.2rc1"
"""The `__version__` of a checkout, which has not changed for long; commit e8e78f05 is the one that was tried."""
DEFAULT_JUDGE = "exact_matching"
"""Answers are letters or the words of an option: rules compare them, and no API is asked."""


@dataclass(frozen=True)
class Harness:
    """Where VLMEvalKit is.

    Parameters
    ----------
    script: its `run.py`.
    path: the directory to import `vlmeval` from; None for where it is installed.
    version: of the distribution, or of the checkout.
    """

    script: Path
    path: Path | None
    version: str


def find(checkout: Path | None = None, untested: bool = False) -> Harness:
    """Look for VLMEvalKit, without importing it.

    Parameters
    ----------
    checkout: directory of a checkout; None for what is installed.
    untested: take a version that was not tried, too.

    Raises
    ------
    InputError: no VLMEvalKit, one without `run.py`, or of an untested version.
    """
    if checkout is None:
        spec = importlib.util.find_spec("vlmeval")
        if spec is None or spec.origin is None:
            raise InputError(
                f"VLMEvalKit is not installed: {INSTALL}, or name a checkout with --vlmevalkit DIR; see "
                "docs/harnesses.md"
            )
        package, path = Path(spec.origin).parent, None
    else:
        package, path = checkout / "vlmeval", checkout
        if not (package / "__init__.py").is_file():
            raise InputError(f"--vlmevalkit {checkout} is no checkout of VLMEvalKit: it has no vlmeval/__init__.py")
    # A distribution has it within the package, a checkout beside it.
    script = next((file for file in (package / "run.py", package.parent / "run.py") if file.is_file()), None)
    if script is None:
        raise InputError(f"VLMEvalKit in {package} has no run.py: {INSTALL}, or name a checkout with --vlmevalkit DIR")
    if script.parent == package and checkout is None:
        if not untested:
            versions.check(DISTRIBUTION)
        return Harness(script, path, metadata.version(DISTRIBUTION))
    found = re.search(r"^__version__ = ['\"](.+)['\"]", (package / "__init__.py").read_text(encoding="utf-8"), re.M)
    version = found[1] if found else "unknown"
    if version != TESTED_CHECKOUT and not untested:
        raise InputError(
            f"VLMEvalKit in {package.parent} is of version {version}, and {TESTED_CHECKOUT} was tested: {INSTALL}, or "
            "go on with --untested"
        )
    return Harness(script, path, version)


@dataclass(frozen=True)
class Task:
    """What VLMEvalKit is to run.

    Parameters
    ----------
    settings: of model and method; `frames` is None or that of all presets.
    presets: data presets, such as "Video-MME_32frame".
    work_dir: its `--work-dir`.
    limit: only so many questions of each data set.
    reuse: go on with what is in the work directory.
    roots: directories with local data sets, beside `LMUDataRoot()`.
    limits: of each answer.
    extra: further options of `run.py`.
    """

    settings: Settings
    presets: Sequence[str]
    work_dir: Path
    limit: int | None = None
    reuse: bool = False
    roots: Sequence[Path] = ()
    limits: Limits = field(default_factory=Limits)
    extra: Sequence[str] = ()

    @property
    def about(self) -> dict[str, Any]:
        """What results depend on, beside the settings."""
        return {"limit": self.limit, "judge": self.judge, **asdict(self.limits)}

    @property
    def directory(self) -> Path:
        """Where the model's results are, within the work directory."""
        return RunDir(self.work_dir, self.settings).path

    @property
    def arguments(self) -> list[str]:
        """The command line of `run.py`."""
        name = model_name(self.settings)
        own = ["--model", name, "--data", *self.presets, "--work-dir", str(self.work_dir)]
        judge = [] if self._given("--judge") else ["--judge", self.judge]
        return [*own, *judge, *(["--reuse"] if self.reuse else []), *self.extra]

    @property
    def judge(self) -> str:
        """Who judges the answers."""
        return self._given("--judge") or DEFAULT_JUDGE

    @property
    def judged(self) -> bool:
        """Whether answers are judged, and not only collected."""
        return self._given("--mode") != "infer"

    def _given(self, option: str) -> str | None:
        """The value of an option among the further ones."""
        words = [part for word in self.extra for part in ([word] if not word.startswith("--") else word.split("=", 1))]
        return words[words.index(option) + 1] if option in words[:-1] else None


def run(harness: Harness, task: Task) -> dict[str, list[Score]] | None:
    """Run VLMEvalKit in this process, which should do nothing else afterwards.

    Under torchrun each process answers its share of the questions, and the first one judges.

    Returns
    -------
    By preset VLMEvalKit's score of each question, empty where nothing was to be judged; None in other processes than
    the first.

    Raises
    ------
    TangoError: see `vlmevalkit_data.check`, `RunDir.claim`, `Asker` and `check_finished`.
    """
    _check_environment()
    if task.settings.batch_size != 1:
        raise InputError(f"batch_size is {task.settings.batch_size}: VLMEvalKit asks one question at a time, give 1")
    rank = int(os.environ.get("RANK", "0"))
    # ms-vlmeval looks into the cache of ModelScope otherwise, whose package it does not bring along.
    os.environ.setdefault("VLMEVALKIT_USE_MODELSCOPE", "0")
    if harness.path is not None:
        sys.path.insert(0, str(harness.path))
    try:
        from vlmeval.config import supported_VLM
        from vlmeval.dataset.video_dataset_config import supported_video_datasets
        from vlmeval.smp import LMUDataRoot
    except ImportError as error:
        raise InputError(f"VLMEvalKit {harness.version} cannot be imported ({error}): install what it needs") from error
    known = dict(supported_video_datasets)
    roots = (*task.roots, Path(LMUDataRoot()))
    data_sets.check(task.presets, known, roots)
    directory = RunDir(task.work_dir, task.settings)
    if rank == 0:
        directory.claim(task.about, data_sets.fingerprints(task.presets, roots), task.reuse)
    supported_VLM[directory.name] = models.builder(task.settings, directory.records, task.limits)
    for name in task.presets:
        supported_video_datasets[name] = data_sets.builder(name, known, roots, task.limit)
    try:
        with _arguments(task.arguments):
            _execute(harness.script)
    except models.Stopped as stopped:
        raise stopped.error from None
    if rank != 0:
        return None
    check_finished(directory, task.presets, task.judged)
    return {name: directory.scores(name) or [] for name in task.presets} if task.judged else {}


def _check_environment() -> None:
    if os.environ.get("PRED_FORMAT", "").lower() == "json":
        raise InputError("PRED_FORMAT is json, and VLMEvalKit's video data sets cannot judge such files: leave it out")
    if "MMEVAL_ROOT" in os.environ:
        raise InputError("MMEVAL_ROOT is set, and VLMEvalKit would write there: unset it, and give --work-dir")


@contextmanager
def _arguments(words: Sequence[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = ["run.py", *words]
    try:
        yield
    finally:
        sys.argv = before


def _execute(script: Path) -> None:
    """Run `run.py` as a program.

    It connects several processes through NCCL, which works on GPUs only, and has no option for that. Without a GPU the
    text of the script is run with Gloo in its place.

    Raises
    ------
    InputError: several processes without a GPU, and a `run.py` that says it otherwise.
    """
    import torch

    # Counted without starting CUDA: `run.py` deals out the devices itself.
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch.cuda.device_count():
        runpy.run_path(str(script), run_name="__main__")
        return
    text = script.read_text(encoding="utf-8")
    if text.count(_NCCL) != 1:
        raise InputError(f"several processes without a GPU: {script} does not hold {_NCCL} once; run a single process")
    exec(compile(text.replace(_NCCL, _GLOO), str(script), "exec"), {"__name__": "__main__", "__file__": str(script)})


_NCCL, _GLOO = "backend='nccl'", "backend='gloo'"


def command(
    settings: Settings,
    data: Sequence[str],
    work_dir: str | Path,
    limit: int | None = None,
    processes: int = 1,
    data_dir: str | Path | None = None,
) -> list[str]:
    """The command line of one run, to be started or shown; it goes on where an earlier run of it stopped.

    `RunDir(work_dir, settings).scores(preset)` gives what came out, a question at a time.

    Parameters
    ----------
    data: presets, such as "Video-MME_32frame".
    limit: only so many questions of each data set.
    processes: with more than one, torchrun shares the questions among so many, a GPU each.
    data_dir: directory of local data sets, see `vlmevalkit_data.DATA_SETS`.

    Raises
    ------
    InputError: settings with a value that a command line cannot hold.

    Example
    -------
    >>> " ".join(command(Settings("tangovlm-tiny", retention=0.2), ["Video-MME_32frame"], "out", limit=20))
    'tangovlm vlmeval --model tangovlm-tiny --method tango --retention 0.2 --data Video-MME_32frame --work-dir out \
--reuse --limit 20'
    """
    start = ["tangovlm"]
    if processes > 1:
        start = ["torchrun", "--standalone", f"--nproc-per-node={processes}", "-m", "tangovlm"]
    named = ["--model", settings.pretrained, "--method", settings.method, "--retention", str(settings.retention)]
    if settings.frames is not None:
        named += ["--frames", str(settings.frames)]
    params = _params(settings)
    asked = [word for name in data for word in ("--data", name)]
    asked += [] if data_dir is None else ["--data-dir", str(data_dir)]
    tail = [] if limit is None else ["--limit", str(limit)]
    return [*start, "vlmeval", *named, *params, *asked, "--work-dir", str(work_dir), "--reuse", *tail]


def _params(settings: Settings) -> list[str]:
    """Every other setting that differs from its default, as `--param key=value`."""
    named = {"pretrained": settings.pretrained, "method": settings.method, "retention": settings.retention}
    plain = Settings(settings.pretrained).as_dict()
    given = {
        name: str(value)
        for name, value in (settings.as_dict() | dict(settings.params)).items()
        if name not in (*named, "frames", "params", "vllm") and not (name in plain and value == plain[name])
    }
    if replace(Settings.read(**named, **given), frames=settings.frames) != settings:
        raise InputError(f"{settings} cannot be written as a command line: its parameters must be numbers or words")
    return [word for name, value in given.items() for word in ("--param", f"{name}={value}")]
