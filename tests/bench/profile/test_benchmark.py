"""Profiles: stages add up, rows out of a table's folder, the authors' row, CSV, Markdown and pictures."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tangovlm.bench import profile, tables
from tangovlm.bench.profile import files
from tangovlm.errors import InputError
from tangovlm.evaluate.harness.requests import Completion
from tangovlm.evaluate.reproduce.times import means
from tangovlm.tiny.clip import write_demo


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    clip = tmp_path_factory.mktemp("clips") / "clip.mp4"
    (question, _), *_ = write_demo(clip)
    return list(
        profile.run(
            clips=[clip], model="tangovlm-tiny", retentions=[0.1], frames=4, question=question, words=4, repeats=2,
            device=torch.device("cpu"), progress=lambda words: None,
        )
    )  # fmt: skip


def answer(encode: float, *, shared: bool = False, words: int = 3) -> Completion:
    times = {
        "decode": 0.0 if shared else 7.0,
        "encode": encode,
        "prune": encode / 10,
        "prefill": 5.0,
        "decode_tokens": 4.0,
    }
    return Completion("A", 100, 10, 120, words, times, shared=shared, peak_bytes=2 * 10**9)


def test_the_unpruned_model_comes_first_and_prefill_gets_shorter(rows: list[dict[str, object]]) -> None:
    whole, pruned = rows
    assert (whole["method"], whole["retention"], whole["tokens_after"]) == ("all tokens", 1.0, 4 * 64)
    assert (pruned["method"], pruned["retention"], pruned["tokens_after"]) == ("tango", 0.1, 26)
    assert whole["speedup"] == 1
    for row in rows:
        parts = [row["vit_ms"], row["other_ms"], row["prefill_ms"]]
        assert all(isinstance(part, float) and part > 0 for part in parts)
        assert sum(parts) == pytest.approx(row["ttft_ms"])  # type: ignore[arg-type]
        assert row["total_runtime_s"] > row["gpu_runtime_s"] > 0  # type: ignore[operator]
        assert {"machine", "versions", "threads", "kernel", "dtype", "warm_up", "repeats"} <= set(row)
    assert set(profile.KEYS) <= set(whole)


def test_shared_encodings_are_means_over_the_videos() -> None:
    found = means([answer(40.0), answer(0.0, shared=True), answer(20.0), answer(0.0, shared=True)], 50.0)
    assert (found["decode_ms"], found["vit_ms"], found["other_ms"], found["prefill_ms"]) == (7, 25, 8, 5)
    assert found["ttft_ms"] == pytest.approx(38)
    assert found["gpu_runtime_s"] == pytest.approx((60 + 6 + 20 + 16) / 1000)
    assert found["decode_tokens_per_s"] == pytest.approx(8 / 0.016)
    assert (found["peak_memory_gb"], found["tokens_before"], found["tokens_after"]) == (2, 100, 10)
    whole = means([answer(40.0, words=1)])
    assert (whole["vit_ms"], whole["other_ms"], whole["decode_tokens_per_s"]) == (None, 44, None)


def test_no_clip_is_refused() -> None:
    with pytest.raises(InputError, match="there is no clip to profile"):
        next(profile.run(clips=[], model="tangovlm-tiny", device=torch.device("cpu"), progress=print))


def test_the_authors_row_is_that_of_their_readme(rows: list[dict[str, object]], tmp_path: Path) -> None:
    authors = files.authors()
    assert [authors[name] for name in ("vit_ms", "other_ms", "prefill_ms", "ttft_ms")] == [335.57, 146.59, 80.64, 562.8]
    assert [authors[name] for name in ("total_runtime_s", "gpu_runtime_s", "peak_memory_gb")] == [
        1315.02,
        198.31,
        18.61,
    ]
    page = files.page(rows)
    assert "8 NVIDIA A800" in page.splitlines()[4]
    assert "other hardware" in page
    assert tables.markdown([*rows, authors], profile.COLUMNS).count("\n") >= 4
    files.write_csv(tmp_path / "p.csv", rows)
    with (tmp_path / "p.csv").open(newline="") as file:
        told = list(csv.DictReader(file))
    assert [float(row["prefill_ms"]) for row in told] == [rows[0]["prefill_ms"], rows[1]["prefill_ms"], 80.64]
    assert "machine" not in told[0]


def test_rows_out_of_the_folder_of_a_table(tmp_path: Path) -> None:
    measured = means([answer(40.0)]) | {"device": "some GPU"}
    lines = [
        {"label": label, "hyper_parameters": {"retention": retention, "frames": 32}, "questions": 8,
         "ours": {"average": score}, "measured": measured | {"ttft_ms": ttft}}
        for label, retention, score, ttft in (("all tokens", 1.0, 60.0, 100.0), ("Tango", 0.1, 59.0, 50.0))
    ]  # fmt: skip
    (tmp_path / "fig9.json").write_text(json.dumps({"model": "a model", "lines": lines}))
    whole, pruned = files.read_results(tmp_path)
    assert (whole["speedup"], pruned["speedup"], pruned["accuracy"], pruned["device"]) == (1, 2, 59.0, "some GPU")
    assert "59.0" in files.page([whole, pruned])
    (tmp_path / "fig9.json").write_text(json.dumps({"model": "a model", "lines": [lines[0] | {"measured": {}}]}))
    with pytest.raises(InputError, match="has no times"):
        list(files.read_results(tmp_path))
    (tmp_path / "fig9.json").write_text("{}")
    with pytest.raises(InputError, match="is not a table"):
        list(files.read_results(tmp_path))
    with pytest.raises(InputError, match="has no table"):
        list(files.read_results(tmp_path / "none"))


def test_pictures(rows: list[dict[str, object]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in one of \.png, \.svg, \.pdf"):
        files.check_picture(tmp_path / "p.gif")
    if find_spec("matplotlib") is None:
        with pytest.raises(InputError, match="needs matplotlib"):
            files.check_picture(tmp_path / "p.png")
        pytest.skip("no matplotlib here")
    judged = [row | {"accuracy": 60.0} for row in rows]
    for name, told in (("plain.svg", rows), ("judged.svg", judged)):
        files.draw(tmp_path / name, told)
        assert (tmp_path / name).read_text().count("</g>") > 20
