"""The parts of `tangovlm vlmeval` that need no VLMEvalKit: command lines, work directories, local data."""

import json
from pathlib import Path
from typing import Any

import pytest

from tangovlm import registry
from tangovlm.errors import InputError
from tangovlm.evaluate.harness.requests import Limits
from tangovlm.evaluate.harness.settings import Settings
from tangovlm.evaluate.harness.vlmevalkit import data as data_sets
from tangovlm.evaluate.harness.vlmevalkit import miniature
from tangovlm.evaluate.harness.vlmevalkit.launcher import Task, command
from tangovlm.evaluate.harness.vlmevalkit.model import VIDEO_FIRST, arranged, merged
from tangovlm.evaluate.harness.vlmevalkit.results import RunDir, model_name

SETTINGS = Settings("tangovlm-tiny", retention=0.2)
ABOUT = {"limit": None, "judge": "exact_matching"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    miniature.write(folder, clips=1, questions=2)
    return folder


def read_back(words: list[str]) -> Settings:
    """The settings that a command line gives."""
    options = [(words[place], words[place + 1]) for place in range(len(words) - 1) if words[place].startswith("--")]
    names = {"--model": "pretrained", "--method": "method", "--retention": "retention", "--frames": "frames"}
    given: dict[str, Any] = {names[option]: value for option, value in options if option in names}
    given |= {value.partition("=")[0]: value.partition("=")[2] for option, value in options if option == "--param"}
    return Settings.read(**given)


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        Settings("tangovlm-tiny", retention=1 / 3, frames=64, in_llm="tango-fastv"),
        Settings("a/b", "tango-release", 0.15, dtype="float16", device_map="auto"),
        Settings("a/b", params={"diversity": False, "context_ratio": 0.4, "neighbors": 5}),
        Settings("a/b", "topk", params={"signal": "attn"}),
        Settings("a/b", "fastv"),
    ],
    ids=str,
)
def test_a_command_line_holds_every_setting(settings: Settings) -> None:
    words = command(settings, ["Video-MME_64frame"], "out", 20, data_dir="data")
    assert read_back(words) == settings
    assert words[-7:] == ["--data-dir", "data", "--work-dir", "out", "--reuse", "--limit", "20"]


def test_a_setting_that_no_command_line_holds_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be written as a command line"):
        command(Settings("a/b", backend="vllm", vllm=("--seed", "1")), ["Video-MME_64frame"], "out")


@pytest.mark.parametrize(
    ("extra", "judge", "judged"),
    [
        ([], "exact_matching", True),
        (["--judge", "gpt-4o", "--mode", "infer"], "gpt-4o", False),
        (["--verbose", "--judge=gpt-4o", "--mode=all"], "gpt-4o", True),
    ],
)
def test_options_of_the_script(extra: list[str], judge: str, judged: bool) -> None:
    task = Task(SETTINGS, ["MVBench_MP4_32frame"], Path("out"), extra=extra)
    assert (task.judge, task.judged) == (judge, judged)
    given = [word for word in task.arguments if word.startswith("--judge")]
    assert len(given) == 1
    assert task.arguments[:2] == ["--model", model_name(SETTINGS)]


def test_a_work_directory_belongs_to_its_settings(tmp_path: Path) -> None:
    directory = RunDir(tmp_path, SETTINGS)
    directory.claim(ABOUT, {"Video-MME_8frame": "1"}, reuse=False)
    directory.claim(ABOUT, {"MLVU_MCQ_8frame": "2"}, reuse=True)
    RunDir(tmp_path, Settings("tangovlm-tiny", retention=0.2, frames=8, device="cpu")).claim(ABOUT, {}, reuse=True)
    RunDir(tmp_path, Settings("tangovlm-tiny", retention=0.3)).claim(ABOUT, {}, reuse=False)
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
            RunDir(tmp_path, settings).claim(about, data, reuse=True)
    with pytest.raises(InputError, match="go on with --reuse"):
        directory.claim(ABOUT, {}, reuse=False)


def test_results_of_unknown_settings_are_refused(tmp_path: Path) -> None:
    directory = RunDir(tmp_path, SETTINGS)
    directory.path.mkdir()
    (directory.path / "status.json").write_text("{}")
    with pytest.raises(InputError, match="of unknown settings"):
        directory.claim(ABOUT, {}, reuse=True)
    (directory.path / "tangovlm.json").write_text(json.dumps({"settings": 1}))
    with pytest.raises(InputError, match="cannot be read"):
        directory.claim(ABOUT, {}, reuse=True)


def test_families_with_the_video_first_are_known() -> None:
    assert set(VIDEO_FIRST) <= {family.name for family in registry.families().values()}


def test_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"image a\.png: only data sets of videos"):
        merged([{"type": "image", "value": "a.png"}])


def test_all_text_of_a_llava_is_behind_the_video() -> None:
    message = [
        {"type": "text", "value": "Watch. "},
        {"type": "video", "value": "a.mp4"},
        {"type": "text", "value": "Who?"},
    ]
    request = arranged(merged(message), "llava-onevision", Limits(max_new_tokens=3))
    assert (request.text, request.videos, request.limits.max_new_tokens) == ("Watch. Who?", ("a.mp4",), 3)


def test_local_data_are_complete(data: Path) -> None:
    presets = [f"{name}_8frame" for name in data_sets.DATA_SETS]
    data_sets.check(presets, {}, [data])
    assert data_sets.fingerprints(presets, [data]).keys() == set(presets)
    assert data_sets.fingerprints(presets, [data / "elsewhere"]) == {}


@pytest.mark.parametrize("name", data_sets.DATA_SETS)
def test_a_video_that_is_missing(data: Path, tmp_path: Path, name: str) -> None:
    (folder := tmp_path / name).mkdir()
    (folder / f"{name}.tsv").write_bytes((data / name / f"{name}.tsv").read_bytes())
    with pytest.raises(InputError, match=r"1 of 1 videos of .* are missing, the first is .*tangoworld-0-0\.mp4"):
        data_sets.check([f"{name}_8frame"], {}, [tmp_path])


def test_a_table_of_another_form(tmp_path: Path) -> None:
    (folder := tmp_path / "Video-MME").mkdir()
    (folder / "Video-MME.tsv").write_text("index\tquestion\n0\tWhy?\n")
    with pytest.raises(InputError, match="has no column 'video'"):
        data_sets.check(["Video-MME_8frame"], {}, [tmp_path])


def test_clips_that_vlmevalkit_would_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_sets, "_has_moviepy", lambda: False)
    with pytest.raises(InputError, match=r"moviepy==1\.0\.3, or name MVBench_MP4_32frame"):
        data_sets.check(["MVBench_32frame"], {}, [])
