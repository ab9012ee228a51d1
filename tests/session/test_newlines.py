"""Newlines in addition to the kept tokens: reported, and included in the budget on request."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

import tangovlm
from tangovlm import Tango, budget, method
from tangovlm.bench.videos import Shape, synthetic
from tangovlm.errors import InputError, MethodError
from tangovlm.models.common.layout import Grid
from tangovlm.models.llava_video import LlavaVideo
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.parts import RandomWords, Video
from tangovlm.selfcheck.twins.llava_onevision import LlavaOnevisionTwin
from tangovlm.selfcheck.twins.llava_video import LlavaVideoTwin
from tangovlm.selfcheck.twins.qwen2_5_vl import Qwen25VLTwin
from tangovlm.tokens import Selection, VideoReport, VideoTokens

FRAMES, NEW = 8, 4
ROW = (RandomWords(2, 1), Video(FRAMES, 5), RandomWords(4, 2))
GREEDY: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}


@pytest.fixture(scope="module")
def hosts() -> dict[type[Twin], Twin]:
    return {cls: cls() for cls in (LlavaVideoTwin, LlavaOnevisionTwin, Qwen25VLTwin)}


def asked(host: Twin, pruner: Any, **options: Any) -> tuple[VideoReport, list[int], int]:
    """The report of the video, the tokens of the answer, and the length of the prompt in the language model."""
    inputs = host.inputs([ROW])
    with tangovlm.attach(host.model, pruner, **options) as session:
        output = host.model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    said = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    (video,) = session.report.videos
    return video, said, int(output.past_key_values.get_seq_length()) - NEW + 1


@pytest.mark.parametrize("retention", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("cls", [LlavaVideoTwin, LlavaOnevisionTwin, Qwen25VLTwin])
def test_reports_count_the_features_of_the_language_model(
    hosts: dict[type[Twin], Twin], cls: type[Twin], retention: float
) -> None:
    host = hosts[cls]
    video, _, read = asked(host, method("tango", retention=retention))
    whole, got = video.tokens_before + video.newlines_before, video.tokens_after + video.newlines_after
    assert whole - got == host.length(ROW, None) - read
    many = {LlavaVideoTwin: 3 * FRAMES, LlavaOnevisionTwin: 1, Qwen25VLTwin: 0}[cls]
    assert video.newlines_before == many
    if retention == 0.1 and cls is LlavaVideoTwin:
        # 7 tokens of 72 in nearly as many rows of 24: with their newlines far more than 10 %.
        assert got / whole > 0.12


@pytest.mark.parametrize("retention", [0.1, 0.3, 0.7])
@pytest.mark.parametrize(
    "make",
    [
        Tango,
        Tango.release,
        lambda **options: method("uniform", **options),
        lambda **options: method("vidcom2", **options),
        lambda **options: method("holitom", **options),
    ],
    ids=["tango", "release", "uniform", "vidcom2", "holitom"],
)
def test_counted_newlines_are_within_the_budget(
    hosts: dict[type[Twin], Twin], make: Callable[..., Any], retention: float
) -> None:
    host, pruner = hosts[LlavaVideoTwin], make(retention=retention)
    if make == Tango.release and retention == 0.1:
        # It rounds up in every frame, to 8 tokens, each in its own row: 16 with their newlines, of 10.
        with pytest.raises(InputError, match="a budget of 10 holds no token"):
            asked(host, pruner, newlines="counted")
        return
    counted = asked(host, pruner, newlines="counted")
    video = counted[0]
    allowed = budget.count(retention, video.tokens_before + video.newlines_before)
    total = video.tokens_after + video.newlines_after
    assert total <= allowed
    if not getattr(pruner, "exact", True):
        return
    changes = {"equivalent_retention": retention} if hasattr(pruner, "equivalent_retention") else {}

    def keeping(tokens: int) -> tuple[VideoReport, list[int], int]:
        return asked(host, replace(pruner, retention=tokens / video.tokens_before, **changes))

    # The selection of so many tokens; one more would not fit.
    assert keeping(video.tokens_after)[1:] == counted[1:]
    more, _, _ = keeping(video.tokens_after + 1)
    assert total == allowed or more.tokens_after + more.newlines_after > allowed


def test_one_newline_replaces_one_token(hosts: dict[type[Twin], Twin]) -> None:
    host = hosts[LlavaOnevisionTwin]
    video, _, _ = asked(host, Tango(retention=0.25), newlines="counted")
    assert video.tokens_after + video.newlines_after == budget.count(0.25, video.tokens_before + 1)


def test_no_newlines_no_difference(hosts: dict[type[Twin], Twin]) -> None:
    host = hosts[Qwen25VLTwin]
    for retention in (1.0, 0.3):
        counted = asked(host, Tango(retention=retention), newlines="counted")
        kept = asked(host, Tango(retention=retention))
        assert counted[1:] == kept[1:]
        assert counted[0].tokens_after == kept[0].tokens_after


def test_a_pair_counts_newlines_in_what_it_keeps_before_the_model(hosts: dict[type[Twin], Twin]) -> None:
    host = hosts[LlavaVideoTwin]
    pair = method("tango+tango-fastv", retention=0.4)
    video, _, _ = asked(host, pair, newlines="counted")
    more, _, _ = asked(host, pair)
    whole = video.tokens_before + video.newlines_before
    share = more.tokens_per_layer[0] / video.tokens_before
    assert video.tokens_after + video.newlines_after <= budget.count(share, whole) + 1
    assert video.tokens_after < more.tokens_after


@pytest.mark.parametrize(("kind", "newlines", "share"), [("still", 561, 0.141), ("busy", 639, 0.148)])
def test_numbers_in_the_documentation_of_llava_video(
    hosts: dict[type[Twin], Twin], kind: str, newlines: int, share: float
) -> None:
    shape = Shape(64, 13, 13, 256)
    selection = Tango(retention=0.1)(synthetic(shape, kind))
    assert len(selection.indices) == 1082
    kept = LlavaVideo(hosts[LlavaVideoTwin].model).layout.newlines(selection, Grid(64, 13, 13))
    assert kept == newlines
    assert round((1082 + kept) / (64 * 13 * 14), 3) == share


@dataclass(frozen=True)
class Fixed:
    """A method with a fixed retention."""

    name: ClassVar[str] = "fixed"
    needs: ClassVar[frozenset[str]] = frozenset()
    retention: ClassVar[float] = 0.5

    def __call__(self, tokens: VideoTokens) -> Selection:
        return method("uniform", retention=0.5)(tokens)


def test_mistakes(hosts: dict[type[Twin], Twin]) -> None:
    host = hosts[LlavaVideoTwin]
    with (
        pytest.raises(InputError, match="newlines is 'left': choose 'kept' or 'counted'"),
        tangovlm.attach(host.model, Tango(), newlines="left"),
    ):
        pass
    with (
        pytest.raises(MethodError, match="sets the retention"),
        tangovlm.attach(host.model, Fixed(), newlines="counted"),
    ):
        pass
    with pytest.raises(InputError, match="holds no token besides the newlines"):
        asked(host, Tango(retention=0.01), newlines="counted")
    torch.manual_seed(0)
    assert asked(host, Tango(retention=0.2))[0].tokens_after == 14
