"""The directory of a run belongs to its settings."""

import json
from pathlib import Path

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.harness.settings import Settings
from tangovlm.evaluate.harness.vlmevalkit.results import RunDirectory

SETTINGS = Settings("tangovlm-tiny", retention=0.2)
ABOUT = {"limit": None, "judge": "exact_matching"}


def test_a_work_directory_belongs_to_its_settings(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path, SETTINGS)
    directory.claim(ABOUT, {"Video-MME_8frame": "1"}, reuse=False)
    directory.claim(ABOUT, {"MLVU_MCQ_8frame": "2"}, reuse=True)
    RunDirectory(tmp_path, Settings("tangovlm-tiny", retention=0.2, frames=8, device="cpu")).claim(
        ABOUT, {}, reuse=True
    )
    RunDirectory(tmp_path, Settings("tangovlm-tiny", retention=0.3)).claim(ABOUT, {}, reuse=False)
    for settings, about, data, words in [
        (SETTINGS, ABOUT | {"judge": "gpt-4o"}, {}, "judge is 'exact_matching' there, and 'gpt-4o' here"),
        (
            Settings("tangovlm-tiny", retention=0.2, params={"neighbors": 5}),
            ABOUT,
            {},
            "neighbors is None there, and 5",
        ),
        (SETTINGS, ABOUT, {"Video-MME_8frame": "3"}, "Video-MME_8frame is '1' there, and '3' here"),
    ]:
        with pytest.raises(InputError, match=words):
            RunDirectory(tmp_path, settings).claim(about, data, reuse=True)
    with pytest.raises(InputError, match="continue with --reuse"):
        directory.claim(ABOUT, {}, reuse=False)


def test_results_of_unknown_settings_are_refused(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path, SETTINGS)
    directory.path.mkdir()
    (directory.path / "status.json").write_text("{}")
    with pytest.raises(InputError, match="of unknown settings"):
        directory.claim(ABOUT, {}, reuse=True)
    (directory.path / "tangovlm.json").write_text(json.dumps({"settings": 1}))
    with pytest.raises(InputError, match="cannot be read"):
        directory.claim(ABOUT, {}, reuse=True)
