"""Frames in chunks against all of them at once, through the model's own calls."""

import warnings
import weakref
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

import tangovlm
from tangovlm.errors import InputError
from tangovlm.models.common import chunks
from tangovlm.models.common.signals import Signals
from tangovlm.models.llava_onevision import LlavaOnevision
from tangovlm.selfcheck.twins.common.norms import Norms
from tests.support.stock import OLDEST
from tests.support.tiny_models import make_model, make_videos, pad_left, placeholders, state_of, words

NEEDS = frozenset({"saliency", "frame_features", "keys"})
FRAMES = 5
GREEDY = {"max_new_tokens": 4, "do_sample": False}


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model(side=5)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def inputs_for(model: Any, videos: int = 1) -> dict[str, torch.Tensor]:
    rows = [[*words(3, 1), *placeholders(model, FRAMES), *words(4, seed)] for seed in range(videos)]
    return pad_left(rows) | {"pixel_values_videos": make_videos(model, videos, FRAMES)}


@pytest.fixture
def tower_calls(model: Any) -> Iterator[list[int]]:
    """Frames of each call of the vision tower."""
    seen: list[int] = []
    hook = model.model.vision_tower.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    yield seen
    hook.remove()


def encoded(model: Any, chunk_frames: int | None, saliency: str = "p-attn", **options: Any) -> tuple[Any, Signals]:
    family = LlavaOnevision(model, saliency=saliency)
    with family.signals.observe(NEEDS) as signals:
        output = family.encoding.encode(
            model.model.get_video_features, chunk_frames, make_videos(model, 2, FRAMES), return_dict=True, **options
        )
    return output, signals


@pytest.mark.parametrize("saliency", ["p-attn", "attn"])
@pytest.mark.parametrize(("chunk", "calls"), [(1, [1] * 10), (4, [4, 3, 3]), (9, [5, 5]), (10, [10]), (99, [10])])
def test_chunks_give_what_one_call_gives(
    model: Any, tower_calls: list[int], chunk: int, calls: list[int], saliency: str
) -> None:
    got, signals = encoded(model, chunk, saliency)
    assert tower_calls == calls
    wanted = model.model.get_video_features(make_videos(model, 2, FRAMES), return_dict=True)
    _, undivided = encoded(model, 10, saliency)
    # The oldest release adds the newline later.
    assert got.pooler_output.shape == (2, FRAMES * 9 + (0 if OLDEST else 1), 48)
    for name in ("pooler_output", "last_hidden_state"):
        torch.testing.assert_close(got[name], wanted[name], atol=1e-5, rtol=1e-5)
    assert OLDEST or torch.equal(got.pooler_output[:, -1], wanted.pooler_output[:, -1])
    for name in NEEDS:
        torch.testing.assert_close(getattr(signals, name), getattr(undivided, name), atol=1e-5, rtol=1e-5)


def test_hidden_states_only_where_they_are_asked_for(model: Any) -> None:
    output, _ = encoded(model, 3)
    assert output.hidden_states is None
    asked, _ = encoded(model, 3, output_hidden_states=True)
    wanted = model.model.get_video_features(
        make_videos(model, 2, FRAMES), output_hidden_states=True, return_dict=True
    ).hidden_states
    assert len(asked.hidden_states) == len(wanted) == 3
    for one, other in zip(asked.hidden_states, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_tuple_where_the_caller_wants_one(model: Any) -> None:
    family, videos = LlavaOnevision(model), make_videos(model, 1, FRAMES)
    stock = model.model.get_video_features
    got = family.encoding.encode(stock, 2, pixel_values_videos=videos, return_dict=False)
    wanted = stock(videos, return_dict=False)
    assert isinstance(got, tuple)
    for one, other in zip(got, wanted[:2], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_older_releases_have_another_keyword_and_no_newline(model: Any) -> None:
    def older(pixel_values: torch.Tensor, **_: Any) -> Any:
        frames = pixel_values.flatten(2).mean(2)
        return Output(pooler_output=frames[..., None, None].expand(-1, -1, 9, 2).flatten(1, 2))

    class Output(dict):
        pooler_output = property(lambda self: self["pooler_output"])

    videos = make_videos(model, 2, FRAMES)
    got = LlavaOnevision(model).encoding.encode(older, 3, pixel_values=videos, return_dict=True)
    torch.testing.assert_close(got.pooler_output, older(videos).pooler_output)


def test_nothing_but_the_result_of_a_chunk_outlives_it(model: Any) -> None:
    collected: list[weakref.ref[torch.Tensor]] = []

    def stock(pixels: torch.Tensor, **_: Any) -> Any:
        assert [one() for one in collected] == [None] * len(collected)
        hidden = torch.ones(pixels.shape[1], 25, 32)
        collected.append(weakref.ref(hidden))
        return BaseModelOutputWithPooling(
            pooler_output=torch.ones(1, 9 * pixels.shape[1] + 1, 2), hidden_states=(hidden,)
        )

    LlavaOnevision(model).encoding.encode(stock, 3, make_videos(model, 2, FRAMES))
    assert len(collected) == 4


def test_the_estimate_covers_what_the_tower_holds() -> None:
    model = make_model(side=8)
    vision = model.config.vision_config
    vision.num_hidden_layers += 10
    hidden, inner, text = 32, 48, 48
    wanted = 64 * 4 * (12 * hidden + max(2 * hidden + 2 * inner, hidden + 3 * text))
    assert LlavaOnevision(model).encoding.frame_bytes([]) == wanted


# --- within attach ----------------------------------------------------------------------------------------------------


def generated(model: Any, pruner: Any, videos: int = 2, **options: Any) -> tuple[torch.Tensor, Any]:
    with tangovlm.attach(model, pruner, record=True, **options) as session:
        return model.generate(**inputs_for(model, videos), **GREEDY), session


def test_generate_in_chunks(model: Any, tower_calls: list[int]) -> None:
    pruner = tangovlm.Tango(retention=0.3)
    wanted, whole = generated(model, pruner)
    got, session = generated(model, pruner, chunk_frames=3)
    assert tower_calls == [10, 3, 3, 2, 2]
    assert torch.equal(got, wanted)
    for one, other in zip(session.videos, whole.videos, strict=True):
        assert torch.equal(one.selection.indices, other.selection.indices)


def test_the_device_decides_where_nobody_does(
    model: Any, tower_calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = LlavaOnevision(model)
    monkeypatch.setattr(chunks, "_CPU_BYTES", 4 * family.encoding.frame_bytes([]))
    wanted, _ = generated(model, Norms(), chunk_frames=10)
    tower_calls.clear()
    got, _ = generated(model, Norms())
    assert tower_calls == [4, 3, 3]
    assert torch.equal(got, wanted)


def test_full_retention_is_divided_on_request_only(
    model: Any, tower_calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_CPU_BYTES", 1)
    generated(model, Norms(1.0))
    generated(model, Norms(1.0), chunk_frames=5)
    assert tower_calls == [10, 5, 5]


def test_model_is_restored_after_an_error_in_a_chunk(model: Any, tower_calls: list[int]) -> None:
    def fail(_module: Any, args: Any) -> None:
        if len(tower_calls) == 2:
            raise ZeroDivisionError

    hook = model.model.vision_tower.register_forward_pre_hook(fail)
    before = state_of(model)
    with pytest.raises(ZeroDivisionError):
        generated(model, Norms(), chunk_frames=4)
    assert tower_calls == [4, 3]
    assert state_of(model) == before
    hook.remove()


@pytest.fixture
def starved(model: Any) -> Iterator[list[Exception]]:
    """What the vision tower raises instead of running; nothing: it asks the CPU for more than there is."""
    raised: list[Exception] = []

    def starve(_module: Any, _args: Any) -> None:
        if raised:
            raise raised[0]
        torch.empty(1 << 50)

    hook = model.model.vision_tower.register_forward_pre_hook(starve)
    yield raised
    hook.remove()


@pytest.mark.parametrize("raised", [[], [torch.OutOfMemoryError("CUDA out of memory")], [MemoryError()]])
def test_out_of_memory_names_the_way_out(model: Any, starved: list[Exception], raised: list[Exception]) -> None:
    starved += raised
    words = (
        r"^cpu is out of memory: encoding 10 frames at once takes about 0\.0 GB .*chunk_frames=2 .*--chunk-frames 2\)$"
    )
    with pytest.raises(InputError, match=words):
        generated(model, Norms())
    with pytest.raises(InputError, match="encoding 1 frames at once.*smaller model"):
        generated(model, Norms(), chunk_frames=1)


def test_other_errors_of_the_tower_stay(model: Any, starved: list[Exception]) -> None:
    starved.append(RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        generated(model, Norms())


def test_out_of_memory_while_pruning(model: Any) -> None:
    class Greedy(Norms):
        def __call__(self, tokens: Any) -> Any:
            return torch.empty(1 << 50)

    with pytest.raises(InputError, match=r"^cpu is out of memory: pruning the 45 tokens of a video; give fewer frames"):
        generated(model, Greedy())


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "4"])
def test_bad_chunk_frames(model: Any, bad: Any) -> None:
    with pytest.raises(InputError, match="chunk_frames is"), tangovlm.attach(model, Norms(), chunk_frames=bad):
        pass


def test_the_size_of_a_gpu_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=16 * 10**9))
    assert chunks.frames_at_once(10**7, torch.device("cuda")) == 100
    assert chunks.frames_at_once(10**10, torch.device("cuda")) == 1


@pytest.mark.parametrize(
    ("frames", "at_most", "sizes"), [(1, 1, [1]), (7, 3, [3, 2, 2]), (8, 4, [4, 4]), (9, 8, [5, 4])]
)
def test_bounds(frames: int, at_most: int, sizes: list[int]) -> None:
    cuts = chunks.bounds(frames, at_most)
    assert [stop - start for start, stop in cuts] == sizes
    assert (cuts[0][0], cuts[-1][1]) == (0, frames)
    assert all(one[1] == other[0] for one, other in pairwise(cuts))
