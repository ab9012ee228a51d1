"""What a run of VLMEvalKit leaves: our settings beside its files, and its score of every question."""

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
    score: 1 for a right answer, 0 for a wrong one, -1 where VLMEvalKit got no answer.
    row: all that its file says of the question, such as "video" and "task_type".
    """

    index: str
    prediction: str
    score: int
    row: Mapping[str, Any]


def model_name(settings: Settings) -> str:
    """What VLMEvalKit calls the model, and its directory and files.

    Example
    -------
    >>> model_name(Settings("llava-hf/llava-onevision-qwen2-7b-ov-hf", retention=0.1, in_llm="fastv"))
    'llava-onevision-qwen2-7b-ov-hf-tango+fastv-0.1'
    """
    method = settings.method if settings.in_llm is None else f"{settings.method}+{settings.in_llm}"
    name = f"{Path(settings.pretrained).name}-{method}-{settings.retention:.10g}"
    return re.sub(r"[^A-Za-z0-9.+-]", "_", name)


class RunDir:
    """The directory of a model and its settings within a work directory.

    Parameters
    ----------
    work_dir: VLMEvalKit's `--work-dir`.
    settings: of the model.

    Attributes
    ----------
    name: of the model in VLMEvalKit. path: the directory.
    records: folder that has for each number of frames, such as `32frame`, a folder of `records.Records`.
    """

    def __init__(self, work_dir: Path, settings: Settings) -> None:
        self.name = model_name(settings)
        self.path = work_dir / self.name
        self.records = self.path / "records"
        self._settings = settings

    def claim(self, about: Mapping[str, Any], data: Mapping[str, str], reuse: bool) -> None:
        """Write down what the directory's results belong to.

        Parameters
        ----------
        about: what they depend on beside the settings, such as a limit and a judge.
        data: MD5 of data sets of the user's, by preset.
        reuse: whether results that are there may be gone on with.

        Raises
        ------
        InputError: results that are there, of other settings or of unknown ones; or any, without `reuse`.
        """
        file = self.path / SETTINGS_FILE
        # The presets name the frames, and where a model runs changes nothing.
        free = {"frames": None, "device": None, "device_map": None}
        wanted = json.loads(json.dumps({"settings": {**self._settings.as_dict(), **free}, "about": dict(about)}))
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            known, there = dict(found["data"]), {"settings": found["settings"], "about": found["about"]}
        except FileNotFoundError:
            if self.path.is_dir() and any(self.path.iterdir()):
                raise InputError(
                    f"{self.path} has results without {SETTINGS_FILE}, of unknown settings: choose another --work-dir"
                ) from None
            known, there = {}, wanted
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{file} cannot be read ({error}): choose another --work-dir") from error
        else:
            if not reuse:
                raise InputError(f"{self.path} has results already: go on with --reuse, or choose another --work-dir")
        _compare(self.path, _flat(there), _flat(wanted))
        _compare(self.path, known, {name: data.get(name, known[name]) for name in known})
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**wanted, "data": {**known, **data}}, indent=2)
        file.write_text(text + "\n", encoding="utf-8")

    def scores(self, preset: str) -> list[Score] | None:
        """VLMEvalKit's scores of a data set, in its order; None where there are none."""
        file = self._file(preset, "_score")
        if file is None:
            return None
        return [Score(str(row["index"]), str(row["prediction"]), _score(row["score"]), row) for row in _table(file)]

    def has_predictions(self, preset: str) -> bool:
        """Whether all questions have been answered."""
        return self._file(preset, "") is not None

    def _file(self, preset: str, suffix: str) -> Path | None:
        """The newest such file: a checkout makes a directory for each run within that of the model."""
        names = [f"{self.name}_{preset}{suffix}.{kind}" for kind in _FORMATS]
        found = [file for name in names for place in (name, f"*/{name}") for file in self.path.glob(place)]
        return max(found, key=lambda file: file.stat().st_mtime, default=None)


def accuracy(scores: Sequence[Score]) -> float:
    """Fraction of right answers; those that are missing count as wrong."""
    return sum(each.score == 1 for each in scores) / len(scores)


def check_finished(run: RunDir, presets: Iterable[str], judged: bool) -> None:
    """See that VLMEvalKit did what it was asked: it writes its faults to its log alone.

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
    # Comes with VLMEvalKit, which wrote the file.
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
    """Where VLMEvalKit scored nothing, the field is empty."""
    return int(value) if value in (0, 1) else -1


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    own = dict(settings["settings"])
    params = own.pop("params")
    return {**own, **params, **settings["about"]}


def _compare(path: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name in dict.fromkeys([*there, *wanted]):
        if there.get(name) != wanted.get(name):
            raise InputError(
                f"{path} has results of other settings ({name} is {there.get(name)!r} there, and {wanted.get(name)!r} "
                "here): choose another --work-dir"
            )
