"""`tangovlm ask` on a real clip and a random model."""

import io
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tangovlm
from tangovlm.budget import count
from tangovlm.pipeline.embedded import FOLLOW_UP_NOTE
from tangovlm.pipeline.load import VideoLLM
from tests.cli.conftest import FRAMES, TOKENS_PER_FRAME, Run
from tests.support.page import read_bits, read_set

STAGES = {"decode", "encode", "prune", "prefill", "decode_tokens"}
TOTAL = FRAMES * TOKENS_PER_FRAME


def test_json_is_the_last_line(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    outcome = tangovlm_command("ask", clip, "What moves?", "--model", checkpoint, "--json", "--max-new-tokens", 4)
    assert outcome.status == 0
    assert outcome.out.count("\n") == 1
    answer = outcome.json
    assert answer["question"] == "What moves?"
    assert isinstance(answer["answer"], str)
    assert (answer["tokens_before"], answer["tokens_after"]) == (TOTAL, count(0.1, TOTAL))
    assert (answer["retention"], answer["method"]) == (0.1, "tango")
    assert sum(answer["segments"]) == FRAMES
    assert set(answer["timings_ms"]) >= STAGES
    assert all(math.isfinite(ms) and ms >= 0 for ms in answer["timings_ms"].values())
    assert "unpruned" not in answer


def test_compare_has_both(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    outcome = tangovlm_command(
        "ask",
        clip,
        "What moves?",
        "--model",
        checkpoint,
        "--compare",
        "--json",
        "--max-new-tokens",
        4,
        "--retention",
        0.5,
    )
    answer = outcome.json
    unpruned = answer.pop("unpruned")
    assert answer.pop("question") == "What moves?"
    assert unpruned.keys() == answer.keys()
    assert (unpruned["tokens_after"], answer["tokens_after"]) == (TOTAL, TOTAL // 2)
    assert (unpruned["retention"], answer["retention"]) == (1.0, 0.5)


def test_table_of_a_comparison(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    outcome = tangovlm_command("ask", clip, "What moves?", "--model", checkpoint, "--compare", "--max-new-tokens", 4)
    assert outcome.status == 0
    for wanted in ("all tokens", "tango, 10 %", f"{TOTAL} of {TOTAL}", f"6 of {TOTAL}", "prefill (ms)", "answer"):
        assert wanted in outcome.out


def test_an_answer_that_looks_like_markup(
    tangovlm_command: Run, clip: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tangovlm.load

    def load(*arguments: Any, **options: Any) -> VideoLLM:
        llm = real(*arguments, **options)
        monkeypatch.setattr(llm.tokenizer, "decode", lambda *_, **__: "[/INST] [bold]red")
        return llm

    monkeypatch.setattr("tangovlm.pipeline.load.load", load)
    outcome = tangovlm_command("ask", clip, "What?", "--model", checkpoint, "--compare", "--max-new-tokens", 2)
    assert outcome.status == 0
    assert outcome.out.count("[/INST] [bold]red") == 2


def test_answer_alone_on_stdout(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    arguments = ("ask", clip, "What moves?", "--model", checkpoint, "--max-new-tokens", 4)
    outcome, as_json = tangovlm_command(*arguments), tangovlm_command(*arguments, "--json")
    assert "".join(outcome.out.split()) == "".join(str(as_json.json["answer"]).split())
    assert f"6 of {TOTAL} visual tokens" in outcome.err


def test_same_answer_at_full_retention(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    outcome = tangovlm_command(
        "ask",
        clip,
        "What moves?",
        "--model",
        checkpoint,
        "--compare",
        "--json",
        "--max-new-tokens",
        4,
        "--retention",
        1,
    )
    answer = outcome.json
    assert answer["answer"] == answer["unpruned"]["answer"]
    assert answer["tokens_after"] == TOTAL


def test_report_is_written(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    question = "Is 1 < 2 & <script>alert(1)</script>?"
    outcome = tangovlm_command(
        "ask", clip, question, "--model", checkpoint, "--report", page, "--max-new-tokens", 4, "--json"
    )
    assert outcome.status == 0
    text = page.read_text()
    assert "Is 1 &lt; 2 &amp; &lt;script&gt;" in text
    assert "<script>alert(1)" not in text
    (answered,) = [each for each in tokens_of(page)["sets"] if each["answered"]]
    assert answered["kept"] == outcome.json["tokens_after"]
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def tokens_of(page: Path) -> dict[str, Any]:
    tokens: dict[str, Any] = json.loads(page.read_text().split("id=tokens>")[1].split("</script>")[0])
    return tokens


@pytest.mark.parametrize("method", ["tango", "visionzip", "tango+fastv"])
@pytest.mark.parametrize("more", [(), ("-q", "What else?")], ids=["one", "two"])
def test_report_shows_what_is_kept_at_other_retentions(
    tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path, method: str, more: tuple[str, ...]
) -> None:
    page = tmp_path / "report.html"
    asked = ("ask", clip, "What?", *more, "--model", checkpoint, "--max-new-tokens", 2, "--method", method, "--json")
    plain = tangovlm_command(*asked, "--retention", 0.3)
    outcome = tangovlm_command(*asked, "--retention", 0.3, "--report", page, "--report-retentions", "0.5,0.2,0.3")
    assert outcome.status == 0, outcome.err
    assert outcome.json["answer"] == plain.json["answer"]
    data = tokens_of(page)
    assert [(each["label"], each["answered"]) for each in data["sets"]] == [
        ("20 %", False), ("30 %", True), ("50 %", False),
    ]  # fmt: skip
    for number, retention in enumerate((0.2, 0.3, 0.5)):
        alone = tangovlm.ask(
            clip, "What?", model=checkpoint, method=method, retention=retention, max_new_tokens=1, record=True
        )
        assert alone.video is not None
        sources, kept = read_set(data, number)
        assert sources.tolist() == alone.video.selection.sources.tolist()
        assert kept.ravel().nonzero()[0].tolist() == alone.video.selection.indices.tolist()


def test_report_without_other_retentions(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    asked = ("ask", clip, "What?", "--model", checkpoint, "--max-new-tokens", 1, "--report", page)
    assert tangovlm_command(*asked).status == 0
    assert [each["label"] for each in tokens_of(page)["sets"]] == ["2 %", "5 %", "10 %", "15 %", "20 %", "50 %"]
    assert tangovlm_command(*asked, "--report-retentions", "none").status == 0
    assert [each["label"] for each in tokens_of(page)["sets"]] == ["10 %"]


def test_report_on_a_file_whose_name_is_no_text(
    tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path
) -> None:
    odd, page = tmp_path / os.fsdecode(b"by\xffte.mp4"), tmp_path / "report.html"
    shutil.copy(clip, odd)
    arguments = ("--model", checkpoint, "--report", page, "--max-new-tokens", 2)
    assert tangovlm_command("ask", odd, "What?", *arguments).status == 0
    assert "by?te.mp4" in page.read_text(encoding="utf-8")


def test_report_at_full_retention(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    arguments = ("--model", checkpoint, "--report", page, "--max-new-tokens", 2, "--retention", 1, "--compare")
    assert tangovlm_command("ask", clip, "What?", *arguments).status == 0
    assert "all tokens" in page.read_text()


@pytest.mark.parametrize("options", [("--saliency", "attn"), ("--dtype", "float32", "--device", "cpu")])
def test_options_reach_the_model(tangovlm_command: Run, clip: Path, checkpoint: Path, options: tuple[str, ...]) -> None:
    outcome = tangovlm_command("ask", clip, "What?", "--model", checkpoint, "--json", "--max-new-tokens", 2, *options)
    assert outcome.json["tokens_after"] == count(0.1, TOTAL)


def test_frames_are_counted(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    arguments = ("ask", clip, "What?", "--model", checkpoint, "--json", "--max-new-tokens", 2, "--frames")
    assert tangovlm_command(*arguments, 2).json["tokens_before"] == 2 * TOKENS_PER_FRAME
    outcome = tangovlm_command(*arguments, 99)
    assert outcome.json["tokens_before"] == 12 * TOKENS_PER_FRAME
    assert outcome.err.count("99 frames were requested") == 1


def test_frames_of_a_part_at_a_rate(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    """12 frames, 8 per second."""
    options = ("--model", checkpoint, "--json", "--max-new-tokens", 1)
    page = tmp_path / "page.html"
    part = tangovlm_command("ask", clip, "What?", *options, "--start", "0:00.5", "--fps", 4, "--report", page)
    assert part.status == 0
    assert part.json["frame_times_s"] == [0.5, 0.75, 1.0, 1.25]
    assert part.json["excerpt_s"] == [0.5, 1.5]
    assert "0 s in the prompt is 0.5 s of the video" in part.err
    text = page.read_text()
    assert all(f"{seconds:.2f} s</span>" in text for seconds in part.json["frame_times_s"])
    most = tangovlm_command(
        "ask", clip, "What?", *options, "--fps", 8, "--max-frames", 3, "--end", 1, "--stream", 0, "--seek", "auto"
    )
    assert most.json["frame_times_s"] == [0.0, 0.375, 0.875]
    assert "3 are taken, uniformly" in most.err and "seek=auto: " in most.err


def test_a_video_from_standard_input(
    tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--model", checkpoint, "--json", "--max-new-tokens", 3)
    page = tmp_path / "page.html"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(clip.read_bytes())))
    piped = tangovlm_command("ask", "-", "What?", *options, "--report", page, "--compare")
    assert piped.status == 0, piped.err
    wanted = tangovlm_command("ask", clip, "What?", *options, "--compare").json
    for name in ("answer", "frame_times_s", "notes", "excerpt_s"):
        assert piped.json[name] == wanted[name]
    assert "/proc/" not in page.read_text()


def test_a_folder_of_pictures(tangovlm_command: Run, checkpoint: Path, tmp_path: Path) -> None:
    for number in range(12):
        Image.new("RGB", (96, 64), (20 * number, 0, 90)).save(tmp_path / f"shot{number}.png")
    (tmp_path / "table.csv").write_text(f"video,question,fps\n{tmp_path},What?,4\n")
    options = ("--model", checkpoint, "--max-new-tokens", 1)
    outcome = tangovlm_command("ask", tmp_path, "What?", *options, "--json")
    assert outcome.json["frame_times_s"] == [0.0, 3.0, 7.0, 11.0]
    assert "12 pictures, from shot0.png to shot11.png in natural order; 1 other files" in outcome.err
    assert "1 s apart" in outcome.err
    batch = tangovlm_command("batch", tmp_path / "table.csv", tmp_path / "out", *options, "--engine", "transformers")
    assert batch.status == 0, batch.err
    (row,) = map(json.loads, (tmp_path / "out").read_text().splitlines())
    assert row["frame_times_s"] == [number / 4 for number in range(12)]


def test_pruning_inside_the_model_is_shown(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    inside = ["--method", "tango+tango-fastv", "--retention", "0.5", "--report", str(page)]
    outcome = tangovlm_command("ask", str(clip), "What moves?", "--model", str(checkpoint), *inside, "--compare")
    assert outcome.status == 0
    assert "in each layer" in outcome.out
    assert "(mean" in page.read_text()
    data = tokens_of(page)
    (cut,) = data["cuts"]
    left = read_bits(cut["data"], tuple(data["grid"]))
    _, kept = read_set(data, [each["answered"] for each in data["sets"]].index(True))
    assert (left <= kept).all()
    row = re.search(rf"<td>layers? {cut['layer']}[^<]*</td><td>(\d+)</td>", page.read_text())
    assert row is not None
    assert left.sum() == int(row[1]) < kept.sum()
    line = tangovlm_command("ask", str(clip), "What moves?", "--model", str(checkpoint), *inside[:4])
    assert "in the layers" in line.out + line.err


def test_adaptive_counts(
    tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path, large_tokens: str
) -> None:
    asked = ("ask", clip, "What moves?", "--model", checkpoint, "--max-new-tokens", 2, "--retention", 0.9)
    fixed, chosen = (
        tangovlm_command(*asked, "--method", large_tokens, "--json", *more).json for more in ((), ("--adaptive",))
    )
    cap = count(0.9, TOTAL)
    assert (fixed["tokens_after"], fixed["tokens_cap"]) == (cap, None)
    assert chosen["tokens_cap"] == cap > chosen["tokens_after"]
    page = tmp_path / "page.html"
    outcome = tangovlm_command(*asked, "--method", large_tokens, "--adaptive", "--compare", "--report", page)
    assert outcome.status == 0
    for wanted in ("all tokens", "large-tokens, at most 90 %", str(cap)):
        assert wanted in outcome.out
    assert "at most 90 %" in page.read_text()
    outcome = tangovlm_command(*asked, "--method", large_tokens, "--adaptive")
    assert f"{chosen['tokens_after']} of {TOTAL} visual tokens (at most {cap})" in outcome.err


def test_adaptive_counts_of_a_method_with_a_fixed_number(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    outcome = tangovlm_command("ask", clip, "What moves?", "--model", checkpoint, "--adaptive")
    outcome.refused("'tango' keeps a fixed number of tokens")


def test_positions(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    asked = ("ask", clip, "What moves?", "--model", checkpoint, "--max-new-tokens", 2)
    assert tangovlm_command(*asked, "--positions", "original").status == 0
    tangovlm_command(*asked, "--positions", "both").refused("'contiguous', 'original'")


QUESTIONS = ("What moves?", "Where is it now?", "How many?")


def test_several_questions_encode_once(
    tangovlm_command: Run, clip: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--model", checkpoint, "--json", "--max-new-tokens", 4)
    alone = [tangovlm_command("ask", clip, question, *options).json for question in QUESTIONS]
    calls = _decodings(monkeypatch)
    outcome = tangovlm_command("ask", clip, QUESTIONS[0], "-q", QUESTIONS[1], "--question", QUESTIONS[2], *options)
    answers = [json.loads(line) for line in outcome.out.splitlines()]
    assert [answer.pop("question") for answer in answers] == list(QUESTIONS)
    assert [answer.pop("question") for answer in alone] == list(QUESTIONS)
    assert [answer["answer"] for answer in answers] == [answer["answer"] for answer in alone]
    assert [answer.keys() for answer in answers] == [answer.keys() for answer in alone]
    assert len(calls) == 1
    assert tangovlm_command("ask", clip, "-q", QUESTIONS[0], *options).json["answer"] == alone[0]["answer"]


def test_chat(tangovlm_command: Run, clip: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions of the command line, then those of standard input; each prompt has what was said before."""
    options: dict[str, Any] = {"retention": 0.1, "method": "tango"}
    encoded = tangovlm.load(checkpoint, device="cpu").encode(clip, **options)
    history: list[tuple[str, str]] = []
    for question in QUESTIONS:
        history.append((question, str(encoded.ask(question, history=tuple(history), max_new_tokens=4))))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTIONS[1]}\n\n{QUESTIONS[2]}\n"))
    calls = _decodings(monkeypatch)
    outcome = tangovlm_command(
        "ask", clip, QUESTIONS[0], "--chat", "--model", checkpoint, "--json", "--max-new-tokens", 4, "--device", "cpu"
    )
    answers = [json.loads(line) for line in outcome.out.splitlines()]
    assert [(answer["question"], answer["answer"]) for answer in answers] == history
    assert len(calls) == 1


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_later_question_of_a_conversation_with_the_embedded_model(
    tangovlm_command: Run, clip: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(QUESTIONS)))
    outcome = tangovlm_command("ask", clip, "--chat", "--max-new-tokens", 1, "--frames", 2, *options)
    assert outcome.status == 0
    assert outcome.err.count("note: the embedded model was trained on single questions and cannot follow up") == 1
    if options:
        notes = [json.loads(line)["notes"] for line in outcome.out.splitlines()]
        assert [FOLLOW_UP_NOTE in each for each in notes] == [False, True, True]


def test_a_conversation_goes_on_after_a_question_that_cannot_be_answered(
    tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("ask", clip, "--chat", "--model", checkpoint, "--json", "--max-new-tokens", 4, "--report")
    too_long = "Is it red? " * 20_000
    lines = [QUESTIONS[0], "Is <video> there?", "\udcff\udcfe", too_long, QUESTIONS[1]]
    piped = "\n".join(lines).encode(errors="surrogateescape")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped), encoding="utf-8"))
    outcome = tangovlm_command(*asked, tmp_path / "a.html")
    *answers, last = map(json.loads, outcome.out.splitlines())
    assert [answer["question"] for answer in answers] == list(QUESTIONS[:2])
    assert outcome.status == 2
    assert last == {"error": "3 of 5 questions could not be answered"}
    said = outcome.err.splitlines()
    for wanted in ("stands for visual tokens", "not UTF-8", "the model's context"):
        assert sum(wanted in line for line in said) == 1
    assert all(question in (tmp_path / "a.html").read_text() for question in QUESTIONS[:2])
    piped = "\n".join(QUESTIONS[:2]).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped), encoding="utf-8"))
    again = tangovlm_command(*asked, tmp_path / "b.html")
    assert again.status == 0
    assert [json.loads(line)["answer"] for line in again.out.splitlines()] == [each["answer"] for each in answers]


def test_what_was_said_before_an_interrupt_is_reported(
    tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.StringIO):
        def readline(self, *_: Any) -> str:
            raise KeyboardInterrupt

    asked = ("ask", clip, QUESTIONS[0], "--chat", "--model", checkpoint, "--json", "--max-new-tokens", 4, "--report")
    monkeypatch.setattr("sys.stdin", Interrupted())
    outcome = tangovlm_command(*asked, tmp_path / "a.html")
    assert outcome.status == 130
    assert json.loads(outcome.out.splitlines()[0])["question"] == QUESTIONS[0]
    assert QUESTIONS[0] in (tmp_path / "a.html").read_text()
    monkeypatch.setattr("sys.stdin", None)
    assert tangovlm_command(*asked, tmp_path / "b.html").json["question"] == QUESTIONS[0]


def test_no_question(tangovlm_command: Run, clip: Path) -> None:
    tangovlm_command("ask", clip).refused("no question", "--chat")
    tangovlm_command("ask", clip, "What?", "--chat", "--compare").refused("--chat", "--compare")
    tangovlm_command("ask", clip, "What?", "-q", " ").refused("empty")


def test_nothing_is_piped_to_a_conversation(
    tangovlm_command: Run, clip: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    tangovlm_command("ask", clip, "--chat", "--model", checkpoint, "--json").refused("no question is given")


def _decodings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The videos that are decoded from now on."""
    from tangovlm.pipeline import generation

    decoded: list[object] = []
    stock = generation.decode

    def decode(path: Any, *arguments: Any, **options: Any) -> Any:
        decoded.append(path)
        return stock(path, *arguments, **options)

    monkeypatch.setattr(generation, "decode", decode)
    return decoded


def test_dry_run(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    """The counts of the answer, without weights."""
    answer = tangovlm_command("ask", clip, "What moves?", "--model", checkpoint, "--json", "--max-new-tokens", 1).json
    for file in checkpoint.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    outcome = tangovlm_command("ask", clip, "What moves?", "--model", tmp_path, "--dry-run", "--json")
    assert outcome.status == 0
    assert outcome.out.count("\n") == 1
    counts = outcome.json
    assert counts["question"] == "What moves?"
    for name in ("tokens_before", "tokens_after", "newlines_after", "method", "retention", "frames", "frame_times_s"):
        assert counts[name] == answer[name], name
    assert counts["dry_run"]
    assert counts["fits"]
    assert counts["prompt_tokens_before"] - counts["prompt_tokens_after"] == TOTAL - count(0.1, TOTAL)
    assert 0 < counts["flops_after"] < counts["flops_before"]
    assert 0 < counts["kv_bytes_after"] < counts["kv_bytes_before"]
    half = tangovlm_command(
        "ask", clip, "What moves?", "--model", tmp_path, "--dry-run", "--json", "--dtype", "bfloat16"
    )
    assert half.json["kv_bytes_after"] * 2 == counts["kv_bytes_after"]


def test_text_of_a_dry_run(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    options = ("--model", checkpoint, "--dry-run", "--method", "fastv", "--retention", 0.8)
    outcome = tangovlm_command("ask", clip, "What moves?", "-q", "What moves, and where to?", *options)
    assert outcome.status == 0
    for wanted in (f"visual tokens: {TOTAL} -> {TOTAL}", "in each layer", "context", "GFLOP", "KV cache", "in float32"):
        assert outcome.out.count(wanted) == 2, wanted
    assert "question: What moves, and where to?" in outcome.out


def test_a_dry_run_that_cannot_be(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((clip, "--chat", "--dry-run"), "give them on the command line"),
        ((clip, "What?", "--dry-run", "--report", tmp_path / "a.html"), "--dry-run and --report do not go together"),
        ((clip, "What?", "--dry-run", "--encode", "changed"), "--dry-run and --encode changed do not go together"),
        ((clip, "What?", "--dry-run", "--compare"), "--dry-run and --compare do not go together"),
        ((clip, "What?", "--dry-run", "--model", tmp_path), "a dry run reads the config"),
        ((clip, "What?", "--dry-run", "--model", checkpoint, "--retention", 3), "retention"),
        ((tmp_path / "no.mp4", "What?", "--dry-run", "--model", checkpoint), "no.mp4"),
    ):
        outcome = tangovlm_command("ask", *arguments)
        assert outcome.status == 2
        assert message in outcome.err
        assert outcome.err.count("\n") == 1


def test_a_comparison_beyond_the_context_is_refused_before_encoding(
    tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the pruned prompt fits."""
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = TOTAL
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoded: list[object] = []
    monkeypatch.setattr(
        "tangovlm.session.encoding.encoder.Encoder._run_with_taps", lambda *_args, **_kwargs: encoded.append(1)
    )
    monkeypatch.setattr(
        "tangovlm.session.encoding.encoder.Encoder._run_shared", lambda *_args, **_kwargs: encoded.append(1)
    )
    outcome = tangovlm_command("ask", clip, "What moves?", "--model", tmp_path, "--compare", "--retention", 0.5)
    assert outcome.status == 2
    assert f"the model's context {TOTAL}: give retention=" in outcome.err
    assert not encoded


def test_frames_that_show_nothing_new_are_not_encoded(tangovlm_command: Run, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, grey in enumerate((70, 70, 70, 200, 200, 200)):
        Image.new("RGB", (64, 64), (grey, grey, grey)).save(folder / f"{number}.png")
    asked = ("ask", folder, "What color is the bar?", "--encode", "changed")
    answer = json.loads(tangovlm_command(*asked, "--json").out)
    assert (answer["encoded_frames"], answer["frames"]) == (2, 6)
    table = tangovlm_command(*asked, "--compare").out
    row = next(line for line in table.splitlines() if line.startswith("frames encoded"))
    assert row.split()[2:] == ["2", "2"]
    tangovlm_command(*asked[:-1], "some").refused("'some' is not one of 'all', 'changed'")
