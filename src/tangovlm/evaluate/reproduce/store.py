"""The output folder of a table: the settings and results of its rows.

OUTPUT/rows/KEY/row.json       the settings of a row, written before it runs
OUTPUT/rows/KEY/harness/       files of the harness, from which an interrupted run continues
OUTPUT/rows/KEY/log.txt        output of the harness
OUTPUT/rows/KEY/results.json   written when the row is finished
OUTPUT/data/                   miniature data sets for the embedded model
OUTPUT/TABLE.md, .html, .json  the table
"""

import json
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError
from tangovlm.report import write_whole

from .harnesses.answers import Results, load, save
from .planning import BEGUN, DONE, PLANNED, UNREACHABLE, Plan, Step

_SETTINGS, _RESULTS = "row.json", "results.json"


class Store:
    """The results of a plan with one harness.

    Parameters
    ----------
    folder: the output folder, which is created when the first row begins.
    plan, harness: results of other settings or of another harness are refused.
    """

    def __init__(self, folder: Path, plan: Plan, harness: str) -> None:
        self.folder = folder
        self._plan, self._harness = plan, harness

    @property
    def data(self) -> Path:
        """The folder of miniature data sets."""
        return self.folder / "data"

    def make_folder(self, folder: Path) -> Path:
        """Create a folder of the output if it does not exist, and return it.

        Raises
        ------
        InputError: the folder cannot be created.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--output {self.folder} cannot be written ({error.strerror}): choose another") from error
        return folder

    def row_folder(self, step: Step) -> Path:
        """The folder of a row."""
        return self.folder / "rows" / step.row.key

    def harness_folder(self, step: Step) -> Path:
        """The folder that the harness writes into."""
        return self.row_folder(step) / "harness"

    def log(self, step: Step) -> Path:
        """The file with the output of the harness."""
        return self.row_folder(step) / "log.txt"

    def states(self) -> dict[str, str]:
        """State of each row by its key.

        Raises
        ------
        InputError: the folder holds results of other settings; names the row and the first setting that differs.
        """
        return {step.row.key: self._state(step) for step in self._plan.steps}

    def results(self) -> dict[str, Results]:
        """Results of the finished rows by their keys.

        Raises
        ------
        InputError: see `states`; a damaged file.
        """
        done = {key for key, state in self.states().items() if state == DONE}
        return {
            step.row.key: load(self.row_folder(step) / _RESULTS) for step in self._plan.steps if step.row.key in done
        }

    def begin(self, step: Step) -> None:
        """Write the settings of a row that is about to run.

        Raises
        ------
        InputError: the folder cannot be written.
        """
        self.make_folder(self.harness_folder(step))
        write_whole(self.row_folder(step) / _SETTINGS, json.dumps(self._spec(step), indent=1).encode())

    def finish(self, step: Step, results: Results) -> None:
        """Write the results of a row."""
        save(self.row_folder(step) / _RESULTS, results)

    def _spec(self, step: Step) -> dict[str, Any]:
        return {"harness": self._harness, **self._plan.spec(step)}

    def _state(self, step: Step) -> str:
        path = self.row_folder(step) / _SETTINGS
        if step.resolved.unreachable is not None:
            return UNREACHABLE
        if not path.exists():
            return PLANNED
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            names = [*self._spec(step), *found]
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged: remove its folder to run the row again") from error
        for name in names:
            own = self._spec(step).get(name)
            if found.get(name) != own:
                raise InputError(
                    f"{path.parent} holds results of other settings, {name} {found.get(name)!r} and not {own!r}: "
                    "choose another --output, or remove that folder"
                )
        return DONE if (path.parent / _RESULTS).exists() else BEGUN
