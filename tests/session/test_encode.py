"""Encoding only the frames that changed: the answers are those of a tower that runs on all of them."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tangovlm
from tangovlm.errors import InputError
from tangovlm.models.common.transformers_compat import Arg
from tangovlm.models.generic import Generic
from tangovlm.registry import family_for
from tangovlm.selfcheck import twins
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import PromptParts, RandomWords, Video
from tangovlm.session.attach import attach_family
from tangovlm.video import Frames

FRAMES, NEW = 8, 3
GREEDY: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
# In 255ths; the frames of twins are noise that differs by more.
NOISE = 1.0
NORMS = Norms(0.3)


@pytest.fixture(scope="module", params=twins.available())
def twin(request: pytest.FixtureRequest) -> Twin:
    made: Twin = twins.load(request.param)()
    return made


def steps(twin: Twin, row: PromptParts) -> list[int]:
    """Frames of the grid of each video."""
    grids = [twin.encode_part(part, None).grid for part in row if isinstance(part, Video)]
    return [grid[0] for grid in grids if grid is not None]


def by_frame(pixels: Tensor, frames: int) -> Tensor:
    """A view of the pixels of videos with their frames first, however a family arranges them."""
    if pixels.dim() == 4 and pixels.shape[:2] == (1, 3):
        return pixels.unflatten(-1, (frames, -1)).movedim(-2, 0)
    if pixels.dim() == 2:
        return pixels.unflatten(0, (frames, -1))
    rest = 3 if pixels.shape[-3] == 3 else 2
    return pixels.flatten(0, -rest - 1) if pixels.dim() > rest + 1 else pixels


def still(twin: Twin, row: PromptParts, shown: list[int], noise: float = 0.0) -> dict[str, Any]:
    """Arguments of `generate` for a prompt in whose videos frame t is a copy of frame ``shown[t]``."""
    inputs = twin.inputs([row])
    name = Arg.VIDEO_PIXELS if Arg.VIDEO_PIXELS in inputs else Arg.PIXELS
    pixels = inputs[name].clone()
    frames = by_frame(pixels, len(shown))
    assert len(frames) == len(shown)
    frames.copy_(frames[shown].clone())
    copied = torch.tensor([place != first for place, first in enumerate(shown)])
    generator = torch.Generator().manual_seed(0)
    frames[copied] += noise / 255 * (2 * torch.rand(frames[copied].shape, generator=generator) - 1)
    return inputs | {name: pixels}


def logits(twin: Twin, inputs: dict[str, Any], **options: Any) -> Tensor:
    with torch.no_grad(), tangovlm.attach(twin.model, tangovlm.Tango(retention=1.0), **options) as session:
        found: Tensor = twin.model(**inputs).logits
    # Both videos of a prompt have the same pattern.
    assert {video.encoded_frames for video in session.report.videos} == {2 if "encode" in options else None}
    return found


@pytest.fixture(scope="module")
def row(twin: Twin) -> PromptParts:
    return RandomWords(3, 1), Video(FRAMES, 2), RandomWords(5, 3), Video(FRAMES, 4), RandomWords(4, 5)


@pytest.fixture(scope="module")
def shown(twin: Twin, row: PromptParts) -> list[int]:
    """In both videos, the first two frames are alike, and all later ones."""
    found: list[int] = []
    for count in steps(twin, row):
        assert count > 2
        found += [len(found) + (0 if place < 2 else 2) for place in range(count)]
    return found


def options_of(twin: Twin, row: PromptParts) -> dict[str, Any]:
    return twin.attach_options(FRAMES) if sum(isinstance(part, Video) for part in row) else {}


@pytest.mark.parametrize("chunk_frames", [None, 1])
def test_all_features_are_those_of_the_frames_that_were_copied(
    twin: Twin, row: PromptParts, shown: list[int], chunk_frames: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of(twin, row)
    expected = logits(twin, still(twin, row, shown), **options)
    noisy, family = still(twin, row, shown, NOISE), family_for(twin.model)
    counts, stock = [], getattr(type(twin.model.model), family.feature_method)

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        pixels = args[0] if args else kwargs.get(Arg.VIDEO_PIXELS, kwargs.get(Arg.PIXELS))
        counts.append(pixels.numel())
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(type(twin.model.model), family.feature_method, counted)
    found = logits(twin, noisy, encode="changed", chunk_frames=chunk_frames, **options)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    whole = noisy[Arg.VIDEO_PIXELS if Arg.VIDEO_PIXELS in noisy else Arg.PIXELS].numel()
    assert sum(counts) == whole * len(set(shown)) // len(shown)


def test_answers_and_signals(twin: Twin, row: PromptParts, shown: list[int]) -> None:
    """The method keeps the same places, whatever the features are."""
    options, answers, records = options_of(twin, row), [], []
    for encode in ("all", "changed"):
        inputs = still(twin, row, shown, NOISE if encode == "changed" else 0)
        method = tangovlm.method("uniform", retention=0.3)
        with tangovlm.attach(twin.model, method, encode=encode, **options):
            answers.append(twin.model.generate(**inputs, **GREEDY))
        if "saliency" not in family_for(twin.model).signals.provides:
            continue
        with tangovlm.attach(twin.model, tangovlm.method("topk"), encode=encode, record=True, **options) as session:
            twin.model.generate(**inputs, **GREEDY)
        records.append([video.saliency for video in session.videos])
    assert torch.equal(*answers)
    if records:
        torch.testing.assert_close(records[1], records[0], atol=1e-4, rtol=1e-3)


def test_frames_that_all_differ_are_all_encoded(twin: Twin, row: PromptParts) -> None:
    """Bit by bit."""
    options, found = options_of(twin, row), []
    for encode in ("all", "changed"):
        with torch.no_grad(), tangovlm.attach(twin.model, NORMS, encode=encode, **options) as session:
            found.append(twin.model(**twin.inputs([row])).logits)
    assert torch.equal(*found)
    assert session.report.videos[0].encoded_frames is None


def test_a_family_that_encodes_whole_videos_is_refused_by_name() -> None:
    twin: Any = twins.load("qwen2_vl")()
    inputs = twin.inputs([(Video(FRAMES, 2), RandomWords(3, 1))])
    with (
        pytest.raises(InputError, match="encode must be 'all' for the family generic"),
        attach_family(Generic.of(twin.model), NORMS, encode="changed"),
    ):
        twin.model(**inputs)


def test_features_that_a_clip_shares_are_those_of_the_changed_frames() -> None:
    llm = tangovlm.load()
    pixels = torch.zeros(8, 3, 64, 64, dtype=torch.uint8)
    pixels[4:, :, 20:40, 20:40] = 200
    frames = Frames(pixels, torch.arange(8, dtype=torch.float64), fps=1.0, duration_s=8.0)
    clip = llm.encode(frames, retention=0.2, encode="changed")
    answers = clip.ask_all(["What happens?", "What color is the bar?"], max_new_tokens=2)
    other = clip.with_method("divprune", retention=0.2).ask("What happens?", max_new_tokens=2)
    alone = tangovlm.ask(frames, "What happens?", model=llm, retention=0.2, encode="changed", max_new_tokens=2)
    assert [answer.encoded_frames for answer in (*answers, other, alone)] == [2] * 4
    assert answers[0] == alone and alone.as_dict()["encoded_frames"] == 2
    assert "frames encoded: 2" in str(clip.video)
    assert tangovlm.ask(frames, "What happens?", model=llm, retention=0.2, max_new_tokens=2).encoded_frames is None
