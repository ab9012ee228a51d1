"""The results of a VLMEvalKit run: its score of every question, and our settings in the same directory."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError

from ..settings import Settings

SETTINGS_FILE = "tangovlm.json"
_FORMATS = ("xlsx", "tsv", "json")


@dataclass(frozen=True)
class Score:
    """VLMEvalKit's score of one question.

    Parameters
    ----------
    index: of the question in the data set.
    prediction: the answer.
    score: 1 for a correct answer, 0 for a wrong one, -1 if VLMEvalKit has no answer.
    row: all columns of the question in VLMEvalKit's file, such as "video" and "task_type".
    """

    index: str
    prediction: str
    score: int
    row: Mapping[str, Any]


def model_name(settings: Settings) -> str:
    """The name of the model in VLMEvalKit, of its directory, and in its file names.

    Example
    -------
    >>> model_name(Settings("llava-hf/llava-onevision-qwen2-7b-ov-hf", retention=0.1, in_llm="fastv"))
    'llava-onevision-qwen2-7b-ov-hf-tango+fastv-0.1'
    """
    method = settings.method if settings.in_llm is None else f"{settings.method}+{settings.in_llm}"
    name = f"{Path(settings.pretrained).name}-{method}-{settings.retention:.10g}"
    return re.sub(r"[^A-Za-z0-9.+-]", "_", name)


class RunDirectory:
    """The directory of a model and its settings within a work directory.

    Parameters
    ----------
    work_dir: VLMEvalKit's `--work-dir`.
    settings: of the model.

    Attributes
    ----------
    name: of the model in VLMEvalKit.
    path: the directory.
    records: a folder with a folder of `records.Records` for each number of frames, such as `32frame`.
    """

    def __init__(self, work_dir: Path, settings: Settings) -> None:
        self.name = model_name(settings)
        self.path = work_dir / self.name
        self.records = self.path / "records"
        self._settings = settings

    def claim(self, about: Mapping[str, Any], data: Mapping[str, str], reuse: bool) -> None:
        """Create the directory and write its settings, or check the settings of an existing directory.

        Parameters
        ----------
        about: what the results depend on in addition to the settings, such as a limit and a judge.
        data: MD5 of local data sets, by preset.
        reuse: whether existing results are continued.

        Raises
        ------
        InputError: existing results of other or unknown settings; or any existing results, without `reuse`.
        """
        file = self.path / SETTINGS_FILE
        # The presets set the frames, and results do not depend on the device.
        free = {"frames": None, "device": None, "device_map": None}
        required = json.loads(json.dumps({"settings": {**self._settings.as_dict(), **free}, "about": dict(about)}))
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            known_data, existing = dict(content["data"]), {name: content[name] for name in ("settings", "about")}
        except FileNotFoundError:
            if self.path.is_dir() and any(self.path.iterdir()):
                raise InputError(
                    f"{self.path} has results without {SETTINGS_FILE}, of unknown settings: choose another --work-dir"
                ) from None
            known_data, existing = {}, required
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{file} cannot be read ({error}): choose another --work-dir") from error
        else:
            if not reuse:
                raise InputError(
                    f"{self.path} has results already: continue with --reuse, or choose another --work-dir"
                )
        _compare(self.path, _flatten(existing), _flatten(required))
        _compare(self.path, known_data, {name: data.get(name, known_data[name]) for name in known_data})
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**required, "data": {**known_data, **data}}, indent=2)
        file.write_text(text + "\n", encoding="utf-8")

    def scores(self, preset: str) -> list[Score] | None:
        """VLMEvalKit's scores of a data set, in the order of its file; None without a file."""
        file = self._file(preset, "_score")
        if file is None:
            return None
        return [Score(str(row["index"]), str(row["prediction"]), _score(row["score"]), row) for row in _table(file)]

    def has_predictions(self, preset: str) -> bool:
        """Whether all questions have been answered."""
        return self._file(preset, "") is not None

    def _file(self, preset: str, suffix: str) -> Path | None:
        """The newest matching file: a checkout creates a subdirectory for each run."""
        names = [f"{self.name}_{preset}{suffix}.{kind}" for kind in _FORMATS]
        files = [file for name in names for pattern in (name, f"*/{name}") for file in self.path.glob(pattern)]
        return max(files, key=lambda file: file.stat().st_mtime, default=None)


def accuracy(scores: Sequence[Score]) -> float:
    """Fraction of correct answers; missing answers count as wrong."""
    return sum(each.score == 1 for each in scores) / len(scores)


def check_finished(run: RunDirectory, presets: Iterable[str], judged: bool) -> None:
    """Check that VLMEvalKit has finished its work, since it reports errors in its log only.

    Raises
    ------
    InputError: a data set without predictions or, if `judged`, without scores.
    """
    for preset in presets:
        if not run.has_predictions(preset):
            raise InputError(
                f"VLMEvalKit has not answered {preset}: its log above, and in {run.path.parent}/logs, says why"
            )
        if judged and run.scores(preset) is None:
            raise InputError(
                f"VLMEvalKit has not judged {preset}: its log above, and in {run.path.parent}/logs, says why"
            )


def _table(file: Path) -> list[dict[str, Any]]:
    # A dependency of VLMEvalKit, which wrote the file.
    import pandas

    if file.suffix == ".json":
        table = pandas.read_json(file)
    elif file.suffix == ".tsv":
        table = pandas.read_csv(file, sep="\t", keep_default_na=False)
    else:
        table = pandas.read_excel(file, keep_default_na=False)
    rows: list[dict[str, Any]] = table.to_dict("records")
    return rows


def _score(value: Any) -> int:
    """The field is empty if VLMEvalKit has no answer."""
    return int(value) if value in (0, 1) else -1


def _flatten(content: Mapping[str, Any]) -> dict[str, Any]:
    settings = dict(content["settings"])
    params = settings.pop("params")
    return {**settings, **params, **content["about"]}


def _compare(path: Path, existing: Mapping[str, Any], required: Mapping[str, Any]) -> None:
    for name in dict.fromkeys([*existing, *required]):
        if existing.get(name) != required.get(name):
            raise InputError(
                f"{path} has results of other settings ({name} is {existing.get(name)!r} there, and "
                f"{required.get(name)!r} here): choose another --work-dir"
            )
