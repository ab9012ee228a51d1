"""`tangovlm inspect sinks` on real clips and a random model with a sink planted into its position embedding."""

from __future__ import annotations

import json
import math
import os
import shutil
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tangovlm
from tangovlm.cli import main
from tangovlm.cli.checks import check_video
from tangovlm.models.common import sinks
from tangovlm.models.common.saliency import fold_probe
from tangovlm.models.common.sinks import ReleasedSinks
from tangovlm.pipeline import ask as pipeline
from tests.cli.conftest import FRAMES, Outcome, Run

PLANTED, SIDE, PATCHES = 9, 4, 8
"""Row 2, column 1 of 4 x 4 tokens, each of 2 x 2 patches."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three clips of noise, each its own."""
    folder = tmp_path_factory.mktemp("clips")
    return [_noise(folder / f"{number}.mp4", number) for number in range(3)]


def _noise(path: Path, seed: int, width: int = 96) -> Path:
    generator = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = width, 64, "yuv420p"
        for _ in range(8):
            coarse = generator.integers(0, 255, (8, width // 8, 3), dtype=np.uint8)
            picture = coarse.repeat(8, axis=0).repeat(8, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def planted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with a position that its pooling head looks at whatever there is."""
    folder = tmp_path_factory.mktemp("planted") / "model"
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")

    def named(end: str) -> str:
        (name,) = [name for name in weights if name.endswith(end)]
        return name

    probe, weight, bias = (
        weights[named(f"head.{name}")] for name in ("probe", "attention.in_proj_weight", "attention.in_proj_bias")
    )
    wanted = fold_probe(probe, weight, bias, heads=2).sum(0)
    row, column = divmod(PLANTED, SIDE)
    patches = [PATCHES * (2 * row + down) + 2 * column + right for down in (0, 1) for right in (0, 1)]
    embedding = weights[named("position_embedding.weight")]
    embedding[patches] = 100 * (wanted - wanted.mean()) / wanted.std()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def measured(planted: Path, clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command wrote."""
    out = tmp_path_factory.mktemp("measured") / "sinks.json"
    assert main(["inspect", "sinks", *map(str, clips), "--model", str(planted), "--out", str(out)]) == 0
    return out


def ranks(llm: Any, clip: Path) -> np.ndarray:
    """Ranks ``(T, 16)`` of one clip's tokens, from the eager head of the stock tower, by comparing each with each."""
    frames = tangovlm.video.decode(clip, FRAMES, size=(56, 56))
    pixels = llm.family.prompt.pixels(frames.pixels, llm.config)[0]
    tower = llm.model.model.vision_tower
    with torch.no_grad():
        hidden = tower(pixels).last_hidden_state
        weights = tower.head.attention(tower.head.probe.expand(len(hidden), -1, -1), hidden, hidden)[1][:, 0]
    # The bilinear pooling of 8 x 8 patches to 4 x 4 tokens takes means of 2 x 2.
    saliency = weights.view(-1, SIDE, 2, SIDE, 2).mean(dim=(2, 4)).flatten(1).numpy()
    below = (saliency[:, None, :] < saliency[:, :, None]).sum(axis=2)
    return below / (saliency.shape[1] - 1)


def test_a_planted_sink_is_found(tangovlm_command: Run, planted: Path, clips: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "sinks.json"
    outcome = tangovlm_command("inspect", "sinks", *clips, "--model", planted, "--out", out, "--json", "--top", 16)
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("\n") == 1
    found = outcome.json
    assert found["positions"][0] == PLANTED
    assert found["mean_rank"][0] == 1.0 and found["sd_rank"][0] == 0.0
    written = json.loads(out.read_text())
    assert written.items() <= found.items()
    assert (written["format"], written["version"], written["model"]) == ("tangovlm-sinks", 1, str(planted))
    assert (written["family"], written["saliency"], written["grid"]) == ("llava-onevision", "p-attn", [SIDE, SIDE])
    assert (written["clips"], written["frames"], written["threshold"]) == (3, 3 * FRAMES, 0.9)
    assert found["out"] == str(out) and found["released"] is None
    llm = tangovlm.load(planted)
    wanted = np.concatenate([ranks(llm, clip) for clip in clips])
    mean, sd = wanted.mean(axis=0), wanted.std(axis=0)
    assert {row["position"] for row in found["rows"]} == set(range(SIDE**2))
    floors = []
    for row in found["rows"]:
        place = row["position"]
        assert (row["row"], row["column"], row["released"]) == (place // SIDE, place % SIDE, None)
        assert row["mean_rank"] == pytest.approx(mean[place], abs=2e-6)
        assert row["sd_rank"] == pytest.approx(sd[place], abs=2e-6)
        assert row["sink"] == (mean[place] - sd[place] >= 0.9) == (place in found["positions"])
        floors.append(row["mean_rank"] - row["sd_rank"])
    assert all(first >= second - 2e-6 for first, second in pairwise(floors))


def test_what_is_found_is_masked(planted: Path, clips: list[Path], measured: Path) -> None:
    llm = tangovlm.load(planted)
    plain: dict[str, Any] = {"retention": 1 / SIDE**2, "context_ratio": 0.0, "diversity": False, "segment_threshold": 2}

    def kept(**sinks: Any) -> list[int]:
        pruner = tangovlm.Tango(**plain, **sinks)
        answer = pipeline.ask(clips[0], "What?", model=llm, method=pruner, max_new_tokens=1, record=True)
        assert any("no sink positions" in note for note in answer.notes) == (not sinks)
        assert answer.video is not None
        return [index % SIDE**2 for index in answer.video.selection.indices.tolist()]

    assert set(kept()) == {PLANTED}
    assert PLANTED not in kept(sink_tokens=measured)


@pytest.mark.parametrize("method", ["tango", "tango+fastv"])
def test_ask_takes_the_file(
    tangovlm_command: Run,
    planted: Path,
    clips: list[Path],
    measured: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    seen, real = [], pipeline.ask

    def ask(*arguments: Any, **options: Any) -> Any:
        seen.append(options["method"])
        return real(*arguments, **options)

    monkeypatch.setattr(pipeline, "ask", ask)
    shared = ("ask", clips[0], "What?", "--model", planted, "--sink-tokens", measured, "--max-new-tokens", 1, "--json")
    outcome = tangovlm_command(*shared, "--method", method)
    assert outcome.status == 0, outcome.err
    assert "no sink positions" not in outcome.err
    (pruner,) = seen
    pruner = getattr(pruner, "before", pruner)
    assert pruner.sink_tokens == tangovlm.Tango(sink_tokens=measured).sink_tokens
    assert PLANTED in pruner.sink_tokens


def test_ask_refuses_a_file_for_another_grid(
    tangovlm_command: Run, planted: Path, clips: list[Path], measured: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(measured.read_text()) | {"grid": [14, 14]}))
    tangovlm_command("ask", clips[0], "What?", "--model", planted, "--sink-tokens", other).refused("14 x 14", "4 x 4")


def test_table_beside_the_released_list(
    tangovlm_command: Run, planted: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ReleasedSinks("some-family", (SIDE, SIDE), (PLANTED, 0), "https://example.org")
    monkeypatch.setattr(sinks, "released_for_grid", lambda *grid: known if grid == known.grid else None)
    arguments = ("inspect", "sinks", *clips, "--model", planted, "--top", 1)
    outcome = tangovlm_command(*arguments)
    assert outcome.status == 0
    lines = [line.split() for line in outcome.out.splitlines()]
    assert lines[1][-4:] == ["sink", "released", "for", "some-family"]
    shown = {int(line[0]): line[1:] for line in lines[2:]}
    assert shown[PLANTED] == ["2", "1", "1.000", "0.000", "yes", "yes"]
    assert shown[0][-1] == "yes"
    assert f"of {SIDE**2} positions on the grid of 4 x 4 are sinks" in outcome.err
    assert "fewer than 8 clips (here 3)" in outcome.err
    listed = tangovlm_command(*arguments, "--json").json
    assert listed["released"] == {"family": "some-family", "source": "https://example.org"}
    assert [row["released"] for row in listed["rows"] if row["position"] in (PLANTED, 0)] == [True, True]


def test_options_reach_the_measurement(tangovlm_command: Run, planted: Path, clips: list[Path]) -> None:
    arguments = ("inspect", "sinks", *clips, "--model", planted, "--json", "--top", 16)
    plain = tangovlm_command(*arguments).json
    assert tangovlm_command(*arguments, "--chunk-frames", 1).json["positions"] == plain["positions"]
    changed = tangovlm_command(
        *arguments, "--frames", 2, "--saliency", "attn", "--threshold", "0.5", "--dtype", "bfloat16", "--device", "cpu"
    ).json
    assert (changed["frames"], changed["saliency"], changed["threshold"]) == (6, "attn", 0.5)
    assert changed["rows"] != plain["rows"]
    assert len(changed["positions"]) == sum(row["mean_rank"] - row["sd_rank"] >= 0.5 for row in changed["rows"])


def test_the_group_shows_its_help(tangovlm_command: Run) -> None:
    outcome = tangovlm_command("inspect")
    assert outcome.status == 0 and "sinks" in outcome.out


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "a model was loaded before the mistake was found"
    monkeypatch.setattr("tangovlm.pipeline.load.load", lambda *_, **__: pytest.fail(message))


@pytest.mark.usefixtures("never_loaded")
class TestBeforeLoading:
    def test_no_clips(self, tangovlm_command: Run) -> None:
        tangovlm_command("inspect", "sinks").refused("no clips are given")

    @pytest.mark.parametrize("threshold", ["0.3", "1.5", "nan", "-1"])
    def test_threshold(self, tangovlm_command: Run, clip: Path, threshold: str) -> None:
        tangovlm_command("inspect", "sinks", clip, f"--threshold={threshold}").refused("--threshold", threshold)

    @pytest.mark.parametrize("option", ["--top", "--frames", "--chunk-frames", "--max-frame-pixels"])
    def test_counts(self, tangovlm_command: Run, clip: Path, option: str) -> None:
        tangovlm_command("inspect", "sinks", clip, option, 0).refused(option, "at least 1")

    def test_a_clip_twice(self, tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
        link = tmp_path / "link.mp4"
        link.symlink_to(clip)
        for twin in (clip, link, os.path.relpath(clip)):
            tangovlm_command("inspect", "sinks", clip, twin).refused(str(twin), "twice")

    def test_a_clip_that_cannot_be_read(self, tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
        text = tmp_path / "text.mp4"
        text.write_text("no video at all")
        for bad in (text, tmp_path / "no.mp4", tmp_path, "https://example.org/x.mp4", ""):
            tangovlm_command("inspect", "sinks", clip, bad).refused(str(bad) or "empty")

    def test_out(self, tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
        tangovlm_command("inspect", "sinks", clip, "--out", tmp_path / "no" / "x.json").refused("--out", "make it")
        tangovlm_command("inspect", "sinks", clip, "--out", tmp_path).refused("--out", "folder")
        tangovlm_command("inspect", "sinks", clip, "--out", clip).refused("--out", "one of the clips")

    def test_ask_with_a_bad_file(self, tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
        bad = tmp_path / "bad.json"
        bad.write_text('{"positions": [1]}')
        ask = ("ask", clip, "What?", "--sink-tokens")
        tangovlm_command(*ask, bad).refused("bad.json", "inspect sinks")
        tangovlm_command(*ask, tmp_path / "no.json").refused("no.json", "no file")
        tangovlm_command(*ask, bad, "--method", "holitom").refused("--sink-tokens", "holitom", "tango")
        tangovlm_command(*ask, bad, "--method", "fastv").refused("--sink-tokens", "fastv")


class TestNothingIsWritten:
    def measure(self, run: Run, planted: Path, *arguments: object) -> Outcome:
        return run("inspect", "sinks", "--model", planted, *arguments)

    def test_damage_found_while_decoding(
        self, tangovlm_command: Run, planted: Path, clips: list[Path], tmp_path: Path
    ) -> None:
        out, cut = tmp_path / "sinks.json", tmp_path / "cut.mp4"
        out.write_text("of yesterday")
        data = clips[0].read_bytes()
        start, index = data.index(b"mdat") + 4, data.index(b"moov") - 4
        assert start < index
        cut.write_bytes(data[:start] + bytes(index - start) + data[index:])
        check_video(str(cut))
        self.measure(tangovlm_command, planted, clips[1], cut, "--out", out).refused("cut.mp4")
        assert out.read_text() == "of yesterday"

    def test_a_signal_that_the_family_does_not_give(
        self, tangovlm_command: Run, planted: Path, clips: list[Path], tmp_path: Path
    ) -> None:
        out = tmp_path / "sinks.json"
        self.measure(tangovlm_command, planted, *clips, "--saliency", "mean-query", "--out", out).refused(
            "mean-query", "llava-onevision", "choose another saliency"
        )
        assert not list(tmp_path.iterdir())

    def test_weights_that_are_nan(
        self, tangovlm_command: Run, planted: Path, clips: list[Path], tmp_path: Path
    ) -> None:
        broken, out = shutil.copytree(planted, tmp_path / "broken"), tmp_path / "sinks.json"
        weights = load_file(broken / "model.safetensors")
        spoiled = {name: value * math.nan if "vision" in name else value for name, value in weights.items()}
        save_file(spoiled, broken / "model.safetensors", metadata={"format": "pt"})
        self.measure(tangovlm_command, broken, *clips, "--out", out, "--json").refused("NaN")
        assert not out.exists()

    def test_clips_of_other_grids(
        self, tangovlm_command: Run, planted: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tangovlm.inspection import sinks

        shapes = iter([(4, 4), (4, 4), (3, 6)])
        monkeypatch.setattr(sinks, "record_saliency", lambda *_, **__: [torch.rand(2, *next(shapes))])
        self.measure(tangovlm_command, planted, *clips).refused(str(clips[2]), "3 x 6 tokens here and 4 x 4 before")
