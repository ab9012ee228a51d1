"""`attach` against a reference without hooks and caches: same tokens, same logits, for every way to generate."""

import copy
from typing import Any

import pytest
import torch
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM, StaticCache
from transformers.generation.streamers import BaseStreamer

import tangovlm
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import IMAGE, VOCABULARY
from tests.support.stock import skip_if_broken
from tests.support.tiny_models import (
    embed_row,
    make_model,
    make_videos,
    pad_left,
    placeholders,
    reference_greedy,
    select,
    words,
)

NEW = 6
FRAMES = 3


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> Any:
    return make_model(attention=request.param)


@pytest.fixture(scope="module")
def sdpa() -> Any:
    return make_model()


def prompt(model: Any, before: int, after: int, seed: int, videos: int = 1, frames: int = FRAMES) -> list[int]:
    ids = words(before, seed)
    for number in range(videos):
        ids += [*placeholders(model, frames), *words(after, seed + 100 + number)]
    return ids


def expected(
    model: Any, row: list[int], videos: torch.Tensor, pruner: Any, new: int = NEW
) -> tuple[list[int], torch.Tensor]:
    selections = [select(model, pruner, video) for video in videos]
    return reference_greedy(model, embed_row(model, row, selections, None), new)


def generate(model: Any, inputs: dict[str, Any], pruner: Any, **options: Any) -> Any:
    options = {"max_new_tokens": NEW, "do_sample": False} | options
    with tangovlm.attach(model, pruner) as session:
        output = model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    output.session = session
    return output


def skip_if_stock_is_broken(model: Any, way: str, inputs: dict[str, Any], **options: Any) -> None:
    def said(**options: Any) -> list[list[int]]:
        return model.generate(**inputs, max_new_tokens=NEW, do_sample=False, **options).tolist()

    skip_if_broken(way, lambda: said(**options), said())


def assert_equal_to(output: Any, inputs: dict[str, Any], wanted: list[tuple[list[int], torch.Tensor]]) -> None:
    start = inputs["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :start], inputs["input_ids"])
    assert output.sequences[:, start:].tolist() == [tokens for tokens, _ in wanted]
    torch.testing.assert_close(output.logits[0], torch.stack([first for _, first in wanted]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("retention", [0.1, 0.5])
def test_single_video(model: Any, retention: float) -> None:
    pruner = Norms(retention)
    row = prompt(model, 3, 5, seed=1)
    videos = make_videos(model, 1, FRAMES)
    inputs = pad_left([row]) | {"pixel_values_videos": videos}
    output = generate(model, inputs, pruner)
    assert_equal_to(output, inputs, [expected(model, row, videos, pruner)])
    report = output.session.report
    kept = tangovlm.budget.count(retention, FRAMES * 16)
    assert (report.tokens_before, report.tokens_after) == (FRAMES * 16, kept)
    assert output.past_key_values.get_seq_length() == len(row) - FRAMES * 16 + kept + NEW - 1


def test_left_padded_batch(model: Any) -> None:
    pruner = Norms()
    rows = [prompt(model, 2, 4, seed=2), prompt(model, 9, 12, seed=3)]
    videos = make_videos(model, 2, FRAMES)
    inputs = pad_left(rows) | {"pixel_values_videos": videos}
    wanted = [expected(model, row, video[None], pruner) for row, video in zip(rows, videos, strict=True)]
    assert_equal_to(generate(model, inputs, pruner), inputs, wanted)


def test_a_text_prompt_beside_a_video(model: Any) -> None:
    pruner = Norms()
    rows = [prompt(model, 2, 4, seed=4), words(7, seed=5)]
    videos = make_videos(model, 1, FRAMES)
    inputs = pad_left(rows) | {"pixel_values_videos": videos}
    wanted = [
        expected(model, rows[0], videos, pruner),
        reference_greedy(model, embed_row(model, rows[1], [], None), NEW),
    ]
    assert_equal_to(generate(model, inputs, pruner), inputs, wanted)


def test_padding_that_pruning_removes(sdpa: Any) -> None:
    """The text prompt is as long as the pruned one: there is no padding, although the caller's mask has some."""
    pruner = Norms(0.25)
    rows = [prompt(sdpa, 2, 4, seed=4), words(6 + 12 + 1, seed=5)]
    videos = make_videos(sdpa, 1, FRAMES)
    inputs = pad_left(rows) | {"pixel_values_videos": videos}
    wanted = [expected(sdpa, rows[0], videos, pruner), reference_greedy(sdpa, embed_row(sdpa, rows[1], [], None), NEW)]
    for options in ({}, {"cache_implementation": "static"}):
        assert_equal_to(generate(sdpa, inputs, pruner, **options), inputs, wanted)


def test_two_videos_in_a_prompt(model: Any) -> None:
    pruner = Norms()
    row = prompt(model, 2, 3, seed=6, videos=2)
    videos = make_videos(model, 2, FRAMES)
    inputs = pad_left([row]) | {"pixel_values_videos": videos}
    output = generate(model, inputs, pruner)
    assert_equal_to(output, inputs, [expected(model, row, videos, pruner)])
    assert len(output.session.report.videos) == 2


def test_ragged_batch_of_two_and_one_videos(sdpa: Any) -> None:
    pruner = Norms()
    rows = [prompt(sdpa, 2, 3, seed=6, videos=2), prompt(sdpa, 5, 4, seed=7)]
    videos = make_videos(sdpa, 3, FRAMES)
    inputs = pad_left(rows) | {"pixel_values_videos": videos}
    wanted = [expected(sdpa, rows[0], videos[:2], pruner), expected(sdpa, rows[1], videos[2:], pruner)]
    assert_equal_to(generate(sdpa, inputs, pruner), inputs, wanted)


@pytest.mark.parametrize("image_first", [True, False])
def test_image_beside_a_video(sdpa: Any, image_first: bool) -> None:
    pruner = Norms()
    pixels = sdpa.config.vision_config.image_size
    images = torch.randn(1, 2, 3, pixels, pixels, generator=torch.Generator().manual_seed(9))
    image_inputs = {"pixel_values": images, "image_sizes": torch.tensor([[pixels, pixels]])}
    with torch.no_grad():
        features = sdpa.model.get_image_features(**image_inputs, return_dict=True).pooler_output[0]
    image, video = [IMAGE] * features.shape[0], placeholders(sdpa, FRAMES)
    row = [
        *words(2, 1),
        *(image if image_first else video),
        *words(2, 2),
        *(video if image_first else image),
        *words(3, 3),
    ]
    videos = make_videos(sdpa, 1, FRAMES)
    inputs = pad_left([row]) | {"pixel_values_videos": videos} | image_inputs
    embeds = embed_row(sdpa, row, [select(sdpa, pruner, videos[0])], features)
    assert_equal_to(generate(sdpa, inputs, pruner), inputs, [reference_greedy(sdpa, embeds, NEW)])


@pytest.mark.parametrize("side", [5, 8])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_grids_and_frames(side: int, frames: int) -> None:
    model, pruner = make_model(side=side), Norms(0.1)
    row = prompt(model, 2, 3, seed=8, frames=frames)
    videos = make_videos(model, 1, frames)
    inputs = pad_left([row]) | {"pixel_values_videos": videos}
    assert_equal_to(generate(model, inputs, pruner), inputs, [expected(model, row, videos, pruner)])


WAYS: dict[str, dict[str, Any]] = {
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "chunked prefill": {"prefill_chunk_size": 8},
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_generate(sdpa: Any, way: str) -> None:
    pruner = Norms()
    row = prompt(sdpa, 3, 8, seed=1)
    row[-4:] = row[-8:-4]
    videos = make_videos(sdpa, 1, FRAMES)
    inputs = pad_left([row]) | {"pixel_values_videos": videos}
    skip_if_stock_is_broken(sdpa, way, inputs, **WAYS[way])
    wanted = expected(sdpa, row, videos, pruner)
    output = generate(sdpa, inputs, pruner, **WAYS[way])
    assert_equal_to(output, inputs, [wanted])


def test_static_cache_with_padding(sdpa: Any) -> None:
    pruner = Norms()
    rows = [prompt(sdpa, 2, 4, seed=2), prompt(sdpa, 9, 12, seed=3)]
    videos = make_videos(sdpa, 2, FRAMES)
    inputs = pad_left(rows) | {"pixel_values_videos": videos}
    wanted = [expected(sdpa, row, video[None], pruner) for row, video in zip(rows, videos, strict=True)]
    assert_equal_to(generate(sdpa, inputs, pruner, cache_implementation="static"), inputs, wanted)


def test_no_cache_with_padding(sdpa: Any) -> None:
    pruner = Norms()
    rows = [prompt(sdpa, 2, 4, seed=2), prompt(sdpa, 9, 12, seed=3)]
    videos = make_videos(sdpa, 2, FRAMES)
    inputs = pad_left(rows) | {"pixel_values_videos": videos}
    wanted = [expected(sdpa, row, video[None], pruner) for row, video in zip(rows, videos, strict=True)]
    assert_equal_to(generate(sdpa, inputs, pruner, use_cache=False), inputs, wanted)


def test_assistant_model(sdpa: Any) -> None:
    pruner = Norms()
    row = prompt(sdpa, 3, 5, seed=1)
    videos = make_videos(sdpa, 1, FRAMES)
    inputs = pad_left([row]) | {"pixel_values_videos": videos}
    torch.manual_seed(3)
    text = copy.deepcopy(sdpa.config.text_config)
    assistant = Qwen2ForCausalLM(Qwen2Config(**text.to_dict() | {"vocab_size": VOCABULARY})).eval()
    skip_if_stock_is_broken(sdpa, "an assistant model", inputs, assistant_model=assistant)
    output = generate(sdpa, inputs, pruner, assistant_model=assistant)
    assert_equal_to(output, inputs, [expected(sdpa, row, videos, pruner)])


def test_assistant_that_is_right(sdpa: Any) -> None:
    """The assistant has the text model of the main model, so that some of its tokens are accepted and some rejected."""
    pruner = Norms()
    row = prompt(sdpa, 3, 5, seed=1)
    videos = make_videos(sdpa, 1, FRAMES)
    inputs = pad_left([row]) | {"pixel_values_videos": videos}
    assistant = Qwen2ForCausalLM(sdpa.config.text_config).eval()
    assistant.model.load_state_dict(sdpa.model.language_model.state_dict())
    assistant.lm_head.load_state_dict(sdpa.lm_head.state_dict())
    skip_if_stock_is_broken(sdpa, "an assistant model", inputs, assistant_model=assistant)
    output = generate(sdpa, inputs, pruner, assistant_model=assistant, max_new_tokens=12)
    assert_equal_to(output, inputs, [expected(sdpa, row, videos, pruner, new=12)])


def reference_beams(model: Any, embeds: torch.Tensor, beams: int, new: int) -> list[int]:
    """Plain beam search without an end token: all hypotheses have the same length."""
    alive = [(0.0, [], embeds)]
    for _ in range(new):
        grown = []
        for score, tokens, prefix in alive:
            first = reference_greedy(model, prefix, 1)[1].log_softmax(-1)
            for logp, token in zip(*first.topk(2 * beams), strict=True):
                row = model.get_input_embeddings().weight[token][None]
                grown.append((score + float(logp), [*tokens, int(token)], torch.cat([prefix, row])))
        alive = sorted(grown, key=lambda item: -item[0])[:beams]
    return alive[0][1]


def test_beams(sdpa: Any) -> None:
    pruner = Norms()
    rows = [prompt(sdpa, 2, 4, seed=2), prompt(sdpa, 6, 5, seed=3)]
    videos = make_videos(sdpa, 2, FRAMES)
    inputs = pad_left(rows) | {"pixel_values_videos": videos}
    output = generate(sdpa, inputs, pruner, num_beams=3, max_new_tokens=4)
    start = inputs["input_ids"].shape[1]
    for row, video, sequence in zip(rows, videos, output.sequences, strict=True):
        embeds = embed_row(sdpa, row, [select(sdpa, pruner, video)], None)
        assert sequence[start:].tolist() == reference_beams(sdpa, embeds, 3, 4)


def test_several_return_sequences(sdpa: Any) -> None:
    """Sampling with a temperature near zero is greedy: every sequence must be the greedy one of its prompt."""
    pruner = Norms()
    rows = [prompt(sdpa, 2, 4, seed=2), prompt(sdpa, 6, 5, seed=3)]
    videos = make_videos(sdpa, 2, FRAMES)
    inputs = pad_left(rows) | {"pixel_values_videos": videos}
    output = generate(sdpa, inputs, pruner, do_sample=True, temperature=1e-4, num_return_sequences=2, top_k=0)
    start = inputs["input_ids"].shape[1]
    wanted = [expected(sdpa, row, video[None], pruner)[0] for row, video in zip(rows, videos, strict=True)]
    assert output.sequences[:, start:].tolist() == [wanted[0], wanted[0], wanted[1], wanted[1]]


def test_streamer(sdpa: Any) -> None:
    class Collect(BaseStreamer):
        def __init__(self) -> None:
            self.got: list[list[int]] = []

        def put(self, value: torch.Tensor) -> None:
            self.got.append(value.flatten().tolist())

        def end(self) -> None:
            self.got.append([])

    pruner, streamer = Norms(), Collect()
    row = prompt(sdpa, 3, 5, seed=1)
    videos = make_videos(sdpa, 1, FRAMES)
    generate(sdpa, pad_left([row]) | {"pixel_values_videos": videos}, pruner, streamer=streamer)
    assert streamer.got[0] == row
    assert [token for tokens in streamer.got[1:] for token in tokens] == expected(sdpa, row, videos, pruner)[0]


def second_turn(model: Any, row: list[int], said: list[int], question: list[int]) -> list[int]:
    return [*row, *said, *question]


@pytest.mark.parametrize("full_ids", [True, False])
@pytest.mark.parametrize("second_video", [True, False])
def test_conversation_on_one_cache(sdpa: Any, full_ids: bool, second_video: bool) -> None:
    pruner = Norms()
    row = prompt(sdpa, 3, 5, seed=1)
    videos = make_videos(sdpa, 2, FRAMES)
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True}
    with tangovlm.attach(sdpa, pruner):
        first = sdpa.generate(**pad_left([row]), pixel_values_videos=videos[:1], **options)
        question = prompt(sdpa, 2, 4, seed=30) if second_video else words(5, seed=31)
        ids = first.sequences[0].tolist() + question
        # The last token of the first answer is not in the cache yet.
        given = ids if full_ids else ids[len(ids) - len(question) - 1 :]
        if not full_ids or not second_video:
            extra = {"pixel_values_videos": videos[1:]} if second_video else {}
            second = sdpa.generate(
                input_ids=torch.tensor([given]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                past_key_values=first.past_key_values,
                **extra,
                **options,
            )
        else:
            second = sdpa.generate(
                input_ids=torch.tensor([ids]),
                past_key_values=first.past_key_values,
                pixel_values_videos=videos[1:],
                **options,
            )
    selections = [select(sdpa, pruner, video) for video in (videos if second_video else videos[:1])]
    tokens, _ = reference_greedy(sdpa, embed_row(sdpa, ids, selections, None), NEW)
    assert second.sequences[0, len(given) :].tolist() == tokens


def test_text_turn_first_then_a_video(sdpa: Any) -> None:
    pruner = Norms()
    rows = [words(4, seed=40), words(9, seed=41)]
    turn = [prompt(sdpa, 1, 4, seed=42), prompt(sdpa, 1, 4, seed=43)]
    videos = make_videos(sdpa, 2, FRAMES)
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True}
    with tangovlm.attach(sdpa, pruner):
        padded = pad_left(rows)
        first = sdpa.generate(**padded, **options)
        ids = torch.cat([first.sequences, torch.tensor(turn)], dim=1)
        mask = torch.cat([padded["attention_mask"], torch.ones_like(ids[:, padded["input_ids"].shape[1] :])], dim=1)
        second = sdpa.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=first.past_key_values,
            pixel_values_videos=videos,
            **options,
        )
    for number in range(2):
        full = ids[number][mask[number].bool()].tolist()
        selections = [select(sdpa, pruner, videos[number])]
        tokens, _ = reference_greedy(sdpa, embed_row(sdpa, full, selections, None), NEW)
        assert second.sequences[number, ids.shape[1] :].tolist() == tokens


def test_decoding_loop(sdpa: Any) -> None:
    """`model(...)` with the caller's cache: logits of the pruned sequence, then one token at a time."""
    pruner = Norms()
    rows = [prompt(sdpa, 2, 4, seed=2), prompt(sdpa, 9, 12, seed=3)]
    videos = make_videos(sdpa, 2, FRAMES)
    inputs = pad_left(rows)
    mask, said = inputs["attention_mask"], []
    with torch.no_grad(), tangovlm.attach(sdpa, pruner):
        output = sdpa(**inputs, pixel_values_videos=videos, use_cache=True)
        kept = tangovlm.budget.count(pruner.retention, FRAMES * 16)
        assert output.logits.shape[1] == len(rows[1]) - FRAMES * 16 + kept
        for _ in range(NEW):
            said.append(output.logits[:, -1].argmax(-1, keepdim=True))
            mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
            output = sdpa(input_ids=said[-1], attention_mask=mask, past_key_values=output.past_key_values)
    wanted = [expected(sdpa, row, video[None], pruner)[0] for row, video in zip(rows, videos, strict=True)]
    assert torch.cat(said, dim=1).tolist() == wanted


def test_a_repeated_cache(sdpa: Any) -> None:
    """A prefilled cache that is repeated for two continuations includes its state."""
    pruner = Norms()
    row = prompt(sdpa, 3, 5, seed=1)
    videos = make_videos(sdpa, 1, FRAMES)
    with torch.no_grad(), tangovlm.attach(sdpa, pruner):
        cache = sdpa(**pad_left([row]), pixel_values_videos=videos, use_cache=True).past_key_values
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(2)
        logits = sdpa(input_ids=torch.tensor([[20], [30]]), past_key_values=cache).logits[:, -1]
    for token, got in zip((20, 30), logits, strict=True):
        embeds = embed_row(sdpa, [*row, token], [select(sdpa, pruner, videos[0])], None)
        torch.testing.assert_close(got, reference_greedy(sdpa, embeds, 1)[1], atol=1e-4, rtol=0)


def test_static_cache_of_the_caller(sdpa: Any) -> None:
    pruner = Norms()
    row = prompt(sdpa, 3, 5, seed=1)
    videos = make_videos(sdpa, 1, FRAMES)
    cache = StaticCache(config=sdpa.config.text_config, max_cache_len=128)
    inputs = pad_left([row]) | {"pixel_values_videos": videos}
    output = generate(sdpa, inputs, pruner, past_key_values=cache)
    assert_equal_to(output, inputs, [expected(sdpa, row, videos, pruner)])


@pytest.mark.parametrize("name", ["tango", "fastv"])
@pytest.mark.parametrize("static", [True, False])
def test_a_reset_cache_starts_again(sdpa: Any, name: str, static: bool) -> None:
    config = sdpa.config.text_config
    cache = StaticCache(config=config, max_cache_len=128) if static else DynamicCache(config=config)
    inputs = pad_left([prompt(sdpa, 3, 5, seed=1)]) | {"pixel_values_videos": make_videos(sdpa, 1, FRAMES)}

    def twice() -> list[Any]:
        said = []
        for _ in range(2):
            said.append(sdpa.generate(**inputs, past_key_values=cache, max_new_tokens=4, do_sample=False).tolist())
            cache.reset()
        return said

    plain = sdpa.generate(**inputs, max_new_tokens=4, do_sample=False).tolist()
    skip_if_broken("resetting a cache", twice, [plain, plain])
    with tangovlm.attach(sdpa, tangovlm.method(name, retention=0.6)):
        first, second = twice()
    assert first == second


def test_right_padding_is_moved_to_the_left(sdpa: Any) -> None:
    pruner = Norms()
    rows = [prompt(sdpa, 2, 4, seed=2), prompt(sdpa, 9, 12, seed=3)]
    videos = make_videos(sdpa, 2, FRAMES)
    gap = len(rows[1]) - len(rows[0])
    ids = torch.tensor([[*rows[0], *[0] * gap], rows[1]])
    mask = torch.tensor([[1] * len(rows[0]) + [0] * gap, [1] * len(rows[1])])
    with torch.no_grad(), tangovlm.attach(sdpa, pruner):
        logits = sdpa(input_ids=ids, attention_mask=mask, pixel_values_videos=videos).logits[:, -1]
    wanted = [expected(sdpa, row, video[None], pruner)[1] for row, video in zip(rows, videos, strict=True)]
    torch.testing.assert_close(logits, torch.stack(wanted), atol=1e-4, rtol=0)
