"""`tangovlm bench`: results, files, and what is refused."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tangovlm.bench.prune import benchmark
from tangovlm.bench.prune.benchmark import PruneRow, Rates
from tangovlm.machine.installation import install_command
from tests.cli.conftest import Run
from tests.support import clips

SMALL = ("--shape", "8,4,5,32", "--repeats", 2, "--device", "cpu")
COMMANDS = ("prune", "scale", "ttft", "questions", "flops", "serve")


@pytest.fixture(autouse=True)
def _setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No second of products for every command, and the threads as they were."""
    monkeypatch.setattr(Rates, "measure", classmethod(lambda cls, device: cls(gflops=100.0, gb_s=10.0)))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_prune_as_json(tangovlm_command: Run) -> None:
    found = tangovlm_command("bench", "prune", *SMALL, "--retention", 0.2, "--threads", 1, "--json")
    assert found.status == 0, found.err
    assert len(found.out.splitlines()) == 1
    assert found.json["benchmark"] == "prune"
    still, busy = found.json["rows"]
    assert {"speedup", "ms", "reference_ms", "peak_extra_mb", "device", "dtype"} <= still.keys()
    assert set(still) == set(PruneRow.__dataclass_fields__)
    assert (still["video"], busy["video"]) == ("still", "busy")
    assert [still[name] for name in ("threads", "retention", "tokens_after", "device")] == [1, 0.2, 32, "cpu"]
    assert "8x4x5x32 busy, float32" in found.err


def test_prune_as_table_and_file(tangovlm_command: Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    options = ("--video", "still", "--no-reference", "--dtype", "bfloat16", "--out", path)
    first = tangovlm_command("bench", "prune", *SMALL, *options)
    assert first.status == 0, first.err
    assert "8×4×5×32" in first.out
    assert "bfloat16" in first.out
    assert tangovlm_command("bench", "prune", *SMALL, *options).status == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["benchmark"] for line in lines] == ["prune"] * 2
    assert [line["reference_note"] for line in lines] == ["not asked for"] * 2


def test_several_shapes(tangovlm_command: Run) -> None:
    found = tangovlm_command("bench", "prune", *SMALL, "--shape", "4,3,3,16", "--video", "busy", "--json")
    assert [row["shape"] for row in found.json["rows"]] == [[8, 4, 5, 32], [4, 3, 3, 16]]


def test_scale(tangovlm_command: Run) -> None:
    options = ("--shape", "3,3,16", "--frames", 16, "--batch", 2, "--repeats", 1, "--device", "cpu", "--json")
    found = tangovlm_command("bench", "scale", *options)
    assert found.status == 0, found.err
    assert (found.json["benchmark"], len(found.json["rows"])) == ("scale", 4)


def test_questions_from_one_encoding(tangovlm_command: Run) -> None:
    options = ("--retention", 0.1, "--frames", 8, "--repeats", 1, "--device", "cpu", "--json")
    found = tangovlm_command("bench", "questions", *options)
    assert found.status == 0, found.err
    (row,) = found.json["rows"]
    assert (found.json["benchmark"], row["method"], row["retention"]) == ("questions", "tango", 0.1)
    assert (row["questions"], row["tokens_before"], row["tokens_after"], row["other_answers"]) == (9, 512, 51, 0)
    assert row["ratio"] == pytest.approx(row["together_ms"] / row["one_ms"])


def test_a_corpus_row_by_row_and_at_once(tangovlm_command: Run) -> None:
    options = ("--rows", 3, "--clips", 2, "--repeats", 1, "--device", "cpu", "--json")
    found = tangovlm_command("bench", "batch", *options)
    assert found.status == 0, found.err
    (row,) = found.json["rows"]
    assert (found.json["benchmark"], row["rows"], row["clips"], row["retention"]) == ("batch", 3, 2, 0.1)
    assert (row["tokens_before"], row["tokens_after"], row["other_answers"]) == (1024, 102, 0)
    assert row["speedup"] == row["alone_s"] / row["batch_s"]
    tangovlm_command("bench", "batch", "--rows", 2, "--clips", 3).refused("--clips is 3")
    tangovlm_command("bench", "batch", "--rows", 99, "--clips", 1).refused("--rows is 99", "more --clips")


def test_decode(tangovlm_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.bench.decode.OTHERS", {})
    clip, rows = clips.write(tmp_path / "clip.mp4", 30), tmp_path / "rows.jsonl"
    found = tangovlm_command("bench", "decode", clip, "--frames", 3, "--repeats", 1, "--out", rows, "--json")
    assert found.status == 0, found.err
    assert found.json["rows"][0]["reader"] == "tangovlm"
    assert [json.loads(line)["frames"] for line in rows.read_text().splitlines()] == [3] * len(found.json["rows"])
    assert "clip.mp4: 2 times 3 frames" in found.err
    tangovlm_command("bench", "decode", tmp_path / "none.mp4").refused("none.mp4", "No such file")
    tangovlm_command("bench", "decode", clip, "--frames", 0).refused("--frames is 0", "at least 1")
    tangovlm_command("bench", "decode", clip, "--out", tmp_path).refused("--out", "is a folder")


def test_first_token(tangovlm_command: Run, tmp_path: Path) -> None:
    clip, rows = clips.write(tmp_path / "clip.mp4", 30), tmp_path / "rows.jsonl"
    options = ("--frames", 8, "--repeats", 1, "--device", "cpu", "--json")
    found = tangovlm_command("bench", "first-token", clip, *options, "--retention", 0.25, "--out", rows)
    assert found.status == 0, found.err
    whole, pruned, changed, keyframes = found.json["rows"]
    assert [row["way"] for row in found.json["rows"]][:2] == ["all tokens", "pruned"]
    assert (whole["tokens_after"], pruned["tokens_after"], changed["tokens_after"]) == (512, 128, 128)
    assert whole["frames"] == whole["encoded_frames"] == pruned["encoded_frames"] == 8
    assert changed["encoded_frames"] <= 8 and keyframes["frames"] <= 8
    for row in found.json["rows"]:
        assert row["first_token_ms"] >= row["decode_ms"] + row["prefill_ms"]
        assert row["speedup"] == whole["first_token_ms"] / row["first_token_ms"]
    assert len(rows.read_text().splitlines()) == 4
    tangovlm_command("bench", "first-token", tmp_path / "none.mp4").refused("none.mp4", "No such file")
    tangovlm_command("bench", "first-token", "--frames", 0).refused("--frames is 0")


def test_stream(tangovlm_command: Run) -> None:
    options = ("--minutes", 1, "--clips", 1, "--max-tokens", 200, "--half-life", 60, "--device", "cpu", "--json")
    found = tangovlm_command("bench", "stream", *options)
    assert found.status == 0, found.err
    (row,) = found.json["rows"]
    assert (row["frames"], row["tokens_before"], row["tokens_after"]) == (60, 60 * 64, 200)
    assert row["late_questions"] > 0 and 0 <= row["late"] <= 100 and 0 <= row["alone"] <= 100
    assert row["frame_ms"] > 0 and row["peak_mb"] > 0 and row["half_life_s"] == 60
    tangovlm_command("bench", "stream", "--minutes", 0).refused("--minutes is 0")
    tangovlm_command("bench", "stream", "--max-tokens", 0).refused("max_tokens is 0")


def test_help_without_a_command(tangovlm_command: Run) -> None:
    found = tangovlm_command("bench")
    assert (found.status, found.err) == (0, "")
    assert all(command in found.out for command in (*COMMANDS, "decode", "stream", "first-token"))


def test_flops(tangovlm_command: Run) -> None:
    found = tangovlm_command("bench", "flops", "--size", "tiny", "--frames", 2, "--json")
    assert found.status == 0, found.err
    assert [row["retention"] for row in found.json["rows"]] == [1.0, 0.2, 0.15, 0.1]


class TestRefusals:
    @pytest.mark.parametrize("command", COMMANDS[:3])
    @pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
    def test_no_such_device(self, tangovlm_command: Run, command: str) -> None:
        tangovlm_command("bench", command, "--device", "cuda").refused("--device cuda", "try cpu")

    def test_device_that_is_not_measured(self, tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tangovlm.cli.measuring.check_device", lambda name: name)
        tangovlm_command("bench", "prune", "--device", "mps").refused("--device mps", "choose cpu or cuda")

    @pytest.mark.parametrize("shape", ["32,14,14", "a,b,c,d", "32,0,14,8", "32x14x14x8"])
    def test_malformed_shape(self, tangovlm_command: Run, shape: str) -> None:
        tangovlm_command("bench", "prune", "--device", "cpu", "--shape", shape).refused("--shape", shape, "T,H,W,D")

    def test_shape_that_does_not_fit(self, tangovlm_command: Run) -> None:
        options = ("--device", "cpu", "--shape", "100000,14,14,3584", "--dtype", "float32")
        refused = tangovlm_command("bench", "prune", *options)
        refused.refused("100000x14x14x3584", "421.5 GB", "free", "--dtype float16 or a smaller --shape")

    def test_no_vllm(self, tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tangovlm.bench.server.benchmark.find_spec", lambda name: None)
        tangovlm_command("bench", "serve").refused("vLLM is not installed", install_command("vllm"))

    def test_running_out_of_memory(self, tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(benchmark, "tango_reference", lambda tokens, retention: torch.empty(1 << 50))
        found = tangovlm_command("bench", "prune", *SMALL)
        assert (found.status, found.out) == (2, "")
        assert found.err.splitlines()[-1].startswith("tangovlm: pruning 8x4x5x32 in float32 ran out of memory on cpu")
        assert "Traceback" not in found.err

    @pytest.mark.parametrize("option", ["--repeats", "--threads"])
    @pytest.mark.parametrize("command", COMMANDS[:3])
    def test_counts(self, tangovlm_command: Run, command: str, option: str) -> None:
        tangovlm_command("bench", command, option, 0).refused(f"{option} is 0", "at least 1")

    def test_more_counts(self, tangovlm_command: Run) -> None:
        tangovlm_command("bench", "scale", "--batch", 0).refused("--batch is 0")
        tangovlm_command("bench", "scale", "--frames", 4).refused("--frames is 4", "at least 8")
        tangovlm_command("bench", "ttft", "--frames", 0).refused("--frames is 0")
        tangovlm_command("bench", "flops", "--frames", -1).refused("--frames is -1")
        tangovlm_command("bench", "serve", "--concurrency", 0).refused("--concurrency is 0")
        tangovlm_command("bench", "serve", "--requests", 0).refused("--requests is 0")

    def test_counts_that_are_too_large(self, tangovlm_command: Run) -> None:
        before = torch.get_num_threads()
        for threads in (10**6, 10**14):
            tangovlm_command("bench", "prune", "--threads", threads).refused(f"--threads is {threads}", "at most")
        assert torch.get_num_threads() == before
        tangovlm_command("bench", "flops", "--frames", 10**8).refused("--frames is 1", "at most 1000000")
        tangovlm_command("bench", "scale", "--frames", 10**400).refused("--frames is 1", "at most 1000000")
        tangovlm_command("bench", "scale", "--batch", 10**400).refused("--batch is 1", "at most 1000000")
        tangovlm_command("bench", "ttft", "--frames", 8, "--frames", 10**400).refused("--frames is 1", "at most")

    def test_choices(self, tangovlm_command: Run) -> None:
        tangovlm_command("bench", "prune", "--video", "loud").refused("--video", "loud", "still")
        tangovlm_command("bench", "prune", "--dtype", "int8").refused("--dtype", "int8", "float16")
        tangovlm_command("bench", "flops", "--size", "huge").refused("huge", "7b")
        tangovlm_command("bench", "ttft", "--size", "huge", "--device", "cpu").refused("huge", "7b")
        tangovlm_command("bench", "ttft", "--model", "magic", "--device", "cpu").refused("magic", "llava-onevision")

    @pytest.mark.parametrize("retention", [0, 1.5])
    def test_retention(self, tangovlm_command: Run, retention: float) -> None:
        for command in ("prune", "scale"):
            tangovlm_command("bench", command, "--retention", retention, "--device", "cpu").refused(
                "retention", "(0, 1]"
            )

    @pytest.mark.parametrize("command", COMMANDS)
    def test_file_that_cannot_be_written(self, tangovlm_command: Run, tmp_path: Path, command: str) -> None:
        tangovlm_command("bench", command, "--out", tmp_path).refused("--out", "is a folder")
        tangovlm_command("bench", command, "--out", tmp_path / "no" / "rows.jsonl").refused(
            "--out", "there is no folder"
        )

    @pytest.mark.parametrize("command", COMMANDS)
    def test_file_of_other_rows(
        self, tangovlm_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        def never(**_: object) -> Iterator[dict[str, object]]:
            raise AssertionError("measured")
            yield {}

        module = {"scale": "prune.scale", "serve": "server"}.get(command, command)
        monkeypatch.setattr(f"tangovlm.bench.{module}.run", never)
        path = tmp_path / "rows.jsonl"
        for text in ('{"benchmark": "other"}\n', "words\n"):
            path.write_text(text)
            tangovlm_command("bench", command, "--out", path).refused(
                str(path), "line 1", f"no row of `tangovlm bench {command}`"
            )
            assert path.read_text() == text

    @pytest.mark.skipif(sys.platform != "linux", reason="a full disk that every Linux has")
    def test_not_a_file(self, tangovlm_command: Run) -> None:
        tangovlm_command("bench", "flops", "--out", "/dev/full").refused("--out /dev/full")
