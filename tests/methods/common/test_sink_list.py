"""Files of measured sinks: what is taken, what is refused, and what a method makes of them."""

import copy
import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tangovlm
from tangovlm import Tango, VideoTokens
from tangovlm.errors import MethodError
from tangovlm.evaluate.runs import Run
from tangovlm.methods.common.sink_list import SinkList, read_sinks

DOCUMENT: dict[str, Any] = {
    "format": "tangovlm-sinks",
    "version": 1,
    "model": "some/model",
    "family": "a-family",
    "saliency": "attn",
    "grid": [3, 4],
    "threshold": 0.9,
    "clips": 2,
    "frames": 8,
    "positions": [7, 0],
    "mean_rank": [0.99, 0.95],
    "sd_rank": [0.01, 0.02],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sinks.json"
    path.write_text(json.dumps(DOCUMENT))
    return path


def test_path_text_and_content_are_the_same(file: Path) -> None:
    methods = [Tango(sink_tokens=source) for source in (file, str(file), DOCUMENT)]
    for pruner in methods:
        assert pruner.sink_tokens == SinkList((7, 0), grid=(3, 4))
        assert list(pruner.sink_tokens) == [7, 0]
        assert pruner == methods[0]
        assert hash(pruner) == hash(methods[0])
        assert pruner.needs == Tango().needs
    file.unlink()
    assert replace(methods[0], retention=0.3).sink_tokens == methods[0].sink_tokens
    assert tangovlm.method("tango", sink_tokens=DOCUMENT) == methods[0]
    assert Tango.release(sink_tokens=DOCUMENT).sink_tokens == methods[0].sink_tokens


def test_a_list_is_its_positions_and_its_grid() -> None:
    sinks = SinkList((7, 0), grid=(3, 4))
    for other in ((7, 0), SinkList((7, 0), grid=(4, 3)), SinkList((0, 7), grid=(3, 4)), 7):
        assert sinks != other
        assert other != sinks
        assert (sinks == other) is (other == sinks) is False
    assert SinkList((7, 0)) == (7, 0)
    assert eval(repr(sinks)) == sinks
    assert json.dumps(sinks) == "[7, 0]"
    for twin in (copy.copy(sinks), copy.deepcopy(sinks), pickle.loads(pickle.dumps(sinks))):
        assert twin == sinks and hash(twin) == hash(sinks) and twin.grid == (3, 4)
    assert Tango(sink_tokens=sinks) != Tango(sink_tokens=(7, 0))


def test_settings_go_into_json(file: Path) -> None:
    pruner = Tango(sink_tokens=file)
    assert asdict(pruner)["sink_tokens"] == (7, 0)
    run = Run("with sinks", "10 %", pruner)
    assert run.spec["settings"]["sink_tokens"] == [7, 0]
    assert json.loads(run.key) == run.spec


def test_masked_positions_are_not_kept(file: Path) -> None:
    saliency = torch.full((2, 3, 4), 0.1)
    saliency[:, 1, 3], saliency[:, 0, 0], saliency[:, 2, 2] = 9.0, 8.0, 7.0
    features = torch.randn(2, 3, 4, 12, generator=torch.Generator().manual_seed(0))
    tokens = VideoTokens(features, saliency, sink_tokens=(10,))
    plain: dict[str, Any] = {"retention": 1 / 12, "context_ratio": 0.0, "diversity": False}
    assert Tango(**plain)(tokens).indices.tolist() == [7, 19]
    # The file takes the place of what the tokens say.
    assert Tango(**plain, sink_tokens=file)(tokens).indices.tolist() == [10, 22]


def test_another_grid_is_refused_and_both_are_named(file: Path) -> None:
    tokens = VideoTokens(torch.randn(2, 4, 3, 12), saliency=torch.ones(2, 4, 3))
    with pytest.raises(MethodError, match="grid of 3 x 4, but the video has 4 x 3"):
        Tango(sink_tokens=file)(tokens)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "other"}, "no measured sinks"),
        ({"version": 2}, "version 2"),
        ({"version": None}, "version None"),
        ({"grid": [3]}, "rows, columns"),
        ({"grid": [3, 0]}, "rows, columns"),
        ({"grid": [3, 4.0]}, "rows, columns"),
        ({"grid": None}, "rows, columns"),
        ({"positions": [12]}, "0 to 11"),
        ({"positions": [-1]}, "0 to 11"),
        ({"positions": [True]}, "0 to 11"),
        ({"positions": ["7"]}, "0 to 11"),
        ({"positions": "70"}, "0 to 11"),
        ({"positions": None}, "0 to 11"),
        ({"positions": [7, 7]}, "twice"),
    ],
)
def test_content_that_is_no_list(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(DOCUMENT | changes))
    for source in (path, DOCUMENT | changes):
        with pytest.raises(MethodError) as caught:
            Tango(sink_tokens=source)
        message = str(caught.value)
        assert words in message and "tangovlm inspect sinks" in message and "\n" not in message
        assert ("broken.json" in message) == (source is path)


@pytest.mark.parametrize("text", [b"", b"{", b"[1, 2]", b"3", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_files_that_hold_something_else(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(text)
    with pytest.raises(MethodError, match=r"broken\.json"):
        read_sinks(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "no.json", tmp_path, "", "28,27", "no\0file"):
        with pytest.raises(MethodError, match="there is no file"):
            Tango(sink_tokens=path)
    large = tmp_path / "large.json"
    large.write_bytes(b" " * (2**22 + 1))
    with pytest.raises(MethodError, match="too large"):
        Tango(sink_tokens=large)
