"""Runs VLMEvalKit on our models: registers model and data presets in it, and executes its `run.py`.

VLMEvalKit has no plug-in mechanism. Its registries are two dictionaries, `supported_VLM` and
`supported_video_datasets`. Entries are added to them in the process that then executes `run.py`. Nothing of VLMEvalKit
is copied or replaced.
"""

import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError

from ..requests import GenerationOptions
from ..settings import Settings
from .installation import Installation
from .model import StopRun, model_builder
from .presets import check_presets, fingerprints, preset_builder
from .results import RunDirectory, Score, check_finished, model_name

DEFAULT_JUDGE = "exact_matching"
"""Answers are letters or the words of an option, so rules compare them, and no API is called."""


@dataclass(frozen=True)
class EvaluationRun:
    """One run of VLMEvalKit.

    Parameters
    ----------
    settings: of model and method; `frames` is None or equal to that of all presets.
    presets: data presets, such as "Video-MME_32frame".
    work_dir: VLMEvalKit's `--work-dir`.
    limit: number of questions per data set; None for all.
    reuse: whether results in the work directory are continued.
    roots: directories with local data sets, in addition to `LMUDataRoot()`.
    options: of the generation of each answer.
    extra: further options of `run.py`.
    """

    settings: Settings
    presets: Sequence[str]
    work_dir: Path
    limit: int | None = None
    reuse: bool = False
    roots: Sequence[Path] = ()
    options: GenerationOptions = field(default_factory=GenerationOptions)
    extra: Sequence[str] = ()

    @property
    def about(self) -> dict[str, Any]:
        """What the results depend on, in addition to the settings."""
        return {"limit": self.limit, "judge": self.judge, **asdict(self.options)}

    @property
    def directory(self) -> Path:
        """The directory of the model's results within the work directory."""
        return RunDirectory(self.work_dir, self.settings).path

    @property
    def arguments(self) -> list[str]:
        """The command line of `run.py`."""
        name = model_name(self.settings)
        own = ["--model", name, "--data", *self.presets, "--work-dir", str(self.work_dir)]
        judge = [] if self._extra_option("--judge") else ["--judge", self.judge]
        return [*own, *judge, *(["--reuse"] if self.reuse else []), *self.extra]

    @property
    def judge(self) -> str:
        """The judge of the answers."""
        return self._extra_option("--judge") or DEFAULT_JUDGE

    @property
    def judged(self) -> bool:
        """Whether answers are judged, not only collected."""
        return self._extra_option("--mode") != "infer"

    def _extra_option(self, option: str) -> str | None:
        """The value of an option in `extra`; None if it is not there."""
        words = [part for word in self.extra for part in ([word] if not word.startswith("--") else word.split("=", 1))]
        return words[words.index(option) + 1] if option in words[:-1] else None


def launch(installation: Installation, run: EvaluationRun) -> dict[str, list[Score]] | None:
    """Run VLMEvalKit in this process, which should not be used for anything else afterwards.

    Under torchrun each process answers its share of the questions, and the first one judges the answers.

    Returns
    -------
    VLMEvalKit's score of each question by preset; empty if the answers are not judged, None in all processes but the
    first.

    Raises
    ------
    TangoError: see `check_presets`, `RunDirectory.claim`, `MessageAnswerer` and `check_finished`.
    """
    _check_environment()
    if run.settings.batch_size != 1:
        raise InputError(f"batch_size is {run.settings.batch_size}: VLMEvalKit asks one question at a time, give 1")
    rank = int(os.environ.get("RANK", "0"))
    # The alternative, the cache of ModelScope, needs a package that ms-vlmeval does not depend on.
    os.environ.setdefault("VLMEVALKIT_USE_MODELSCOPE", "0")
    if installation.path is not None:
        sys.path.insert(0, str(installation.path))
    try:
        from vlmeval.config import supported_VLM
        from vlmeval.dataset.video_dataset_config import supported_video_datasets
        from vlmeval.smp import LMUDataRoot
    except ImportError as error:
        raise InputError(
            f"VLMEvalKit {installation.version} cannot be imported ({error}): install its dependencies"
        ) from error
    known = dict(supported_video_datasets)
    roots = (*run.roots, Path(LMUDataRoot()))
    check_presets(run.presets, known, roots)
    directory = RunDirectory(run.work_dir, run.settings)
    if rank == 0:
        directory.claim(run.about, fingerprints(run.presets, roots), run.reuse)
    supported_VLM[directory.name] = model_builder(run.settings, directory.records, run.options)
    for name in run.presets:
        supported_video_datasets[name] = preset_builder(name, known, roots, run.limit)
    try:
        with _argv(run.arguments):
            _execute(installation.script)
    except StopRun as stop:
        raise stop.error from None
    if rank != 0:
        return None
    check_finished(directory, run.presets, run.judged)
    return {name: directory.scores(name) or [] for name in run.presets} if run.judged else {}


def _check_environment() -> None:
    if os.environ.get("PRED_FORMAT", "").lower() == "json":
        raise InputError("PRED_FORMAT is json, but VLMEvalKit's video data sets cannot judge such files: unset it")
    if "MMEVAL_ROOT" in os.environ:
        raise InputError("MMEVAL_ROOT is set, and VLMEvalKit would write there: unset it, and give --work-dir")


@contextmanager
def _argv(words: Sequence[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = ["run.py", *words]
    try:
        yield
    finally:
        sys.argv = before


def _execute(script: Path) -> None:
    """Run `run.py` as a program.

    The script connects several processes through NCCL, which needs GPUs, and has no option to change it. Without a GPU
    its text is executed with NCCL replaced by Gloo.

    Raises
    ------
    InputError: several processes without a GPU, and a `run.py` that does not name NCCL exactly once.
    """
    import torch

    # Counted without initializing CUDA: `run.py` assigns the devices itself.
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch.cuda.device_count():
        runpy.run_path(str(script), run_name="__main__")
        return
    text = script.read_text(encoding="utf-8")
    if text.count(_NCCL) != 1:
        raise InputError(
            f"several processes without a GPU: {script} does not contain {_NCCL} exactly once; run a single process"
        )
    exec(compile(text.replace(_NCCL, _GLOO), str(script), "exec"), {"__name__": "__main__", "__file__": str(script)})


_NCCL, _GLOO = "backend='nccl'", "backend='gloo'"
