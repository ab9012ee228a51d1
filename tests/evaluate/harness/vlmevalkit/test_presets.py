"""Local data sets and refused presets."""

from pathlib import Path

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.harness.vlmevalkit import miniature, presets
from tangovlm.evaluate.harness.vlmevalkit.presets import DATA_SETS, check_presets, fingerprints


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    miniature.write(folder, clips=1, questions=2)
    return folder


def test_local_data_are_complete(data: Path) -> None:
    names = [f"{name}_8frame" for name in DATA_SETS]
    check_presets(names, {}, [data])
    assert fingerprints(names, [data]).keys() == set(names)
    assert fingerprints(names, [data / "elsewhere"]) == {}


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_video_that_is_missing(data: Path, tmp_path: Path, name: str) -> None:
    (folder := tmp_path / name).mkdir()
    (folder / f"{name}.tsv").write_bytes((data / name / f"{name}.tsv").read_bytes())
    with pytest.raises(InputError, match=r"1 of 1 videos of .* are missing, the first is .*tangoworld-0-0\.mp4"):
        check_presets([f"{name}_8frame"], {}, [tmp_path])


def test_a_table_of_another_form(tmp_path: Path) -> None:
    (folder := tmp_path / "Video-MME").mkdir()
    (folder / "Video-MME.tsv").write_text("index\tquestion\n0\tWhy?\n")
    with pytest.raises(InputError, match="has no column 'video'"):
        check_presets(["Video-MME_8frame"], {}, [tmp_path])


def test_clips_that_vlmevalkit_would_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "_has_moviepy", lambda: False)
    with pytest.raises(InputError, match=r"moviepy==1\.0\.3, or name MVBench_MP4_32frame"):
        check_presets(["MVBench_32frame"], {}, [])
