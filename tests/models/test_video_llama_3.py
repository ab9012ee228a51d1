"""What the VideoLLaMA3 family reads of its tower and writes in its prompts, and masks that the processor makes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.video_llama_3.processing_video_llama_3 import VideoLlama3Processor
from transformers.video_utils import VideoMetadata

import tangovlm
from tangovlm.errors import InputError
from tangovlm.models.common.layout import Grid
from tangovlm.models.common.signals import Signals
from tangovlm.models.common.transformers_compat import encodes_first
from tangovlm.models.video_llama_3 import COMPRESSION, VideoLlama3
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import IMAGE, VIDEO, EncodedPart, Image, PromptPart, RandomWords, Video
from tangovlm.selfcheck.twins.video_llama_3 import MERGE, PATCH, VideoLlama3Twin
from tests.session.test_generate_families import BOTH, NEW, ONE, OTHER, TEXT, beams, check, generate
from tests.support.prompts import ByteTokenizer
from tests.support.turns import second_turn

NEEDS = frozenset({"saliency", "keys", "frame_features"})
UNEVEN = (Video(4, 1), Video(3, 2, wide=True))
SIZES = [9] * 4 + [10] * 3


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def observed(host: VideoLlama3Twin, kind: str, chunk: int = 99) -> tuple[Signals, Any]:
    family, pixels = VideoLlama3(host.model), host.patches(UNEVEN)
    with family.signals.observe(NEEDS, kind) as signals:
        output = family.encoding.encode(host.model.model.get_video_features, chunk, *pixels, return_dict=True)
    return signals, output


def in_tokens(values: Tensor, size: int) -> Tensor:
    """Means over the patches of each token, which lie side by side, on the grid of a frame of so many tokens."""
    height, width = (3, 3) if size == 9 else (2, 5)
    return torch.stack([values[4 * token : 4 * token + 4].mean(0) for token in range(size)]).unflatten(
        0, (height, width)
    )


def rotated(x: Tensor, places: Tensor, base: float = 10000.0) -> Tensor:
    """Channel k and its partner half a head away as a complex number, turned by the row, then by the column."""
    half = x.shape[-1] // 2
    speeds = base ** -(torch.arange(half // 2, dtype=torch.float64) / (half // 2))
    angles = torch.cat([places[:, :1] * speeds, places[:, 1:] * speeds], dim=1)[:, None]
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def places_of(size: int) -> Tensor:
    """Row and column of each patch, token by token."""
    height, width = (3, 3) if size == 9 else (2, 5)
    corners = [(MERGE * row, MERGE * column) for row in range(height) for column in range(width)]
    patches = [(top + y, left + x) for top, left in corners for y in range(MERGE) for x in range(MERGE)]
    return torch.tensor(patches, dtype=torch.float64)


def last_layer(host: VideoLlama3Twin) -> list[tuple[Tensor, Tensor]]:
    """Queries and keys ``(P, A, d)`` of each frame before their rotation, float64, from what the last layer is fed."""
    attention = host.model.model.vision_model.encoder.layers[-1].self_attn
    fed: list[Tensor] = []
    hook = attention.register_forward_pre_hook(lambda _module, args: fed.append(args[0].double()))
    host.model.model.get_image_features(*host.patches(UNEVEN))
    hook.remove()
    found = []
    for frame in torch.split(fed[0], [4 * size for size in SIZES]):
        query, key = (
            (frame @ part.weight.double().T + part.bias.double()).unflatten(-1, (attention.num_heads, -1))
            for part in (attention.q_proj, attention.k_proj)
        )
        found.append((query, key))
    return found


def test_mean_attention_is_that_of_the_eager_model() -> None:
    """The eager model gives its attention maps away; the model that is observed runs SDPA, with the same weights."""
    signals, _ = observed(VideoLlama3Twin(), "attn")
    eager = VideoLlama3Twin(attention="eager").model.model.vision_model
    pixels, thw, sides = VideoLlama3Twin().patches(UNEVEN)
    maps = eager(pixel_values=pixels, grid_thw=thw, merge_sizes=sides, output_attentions=True).attentions[-1]
    assert len(maps) == len(signals.saliency) == len(SIZES)
    for got, weights, size in zip(signals.saliency, maps, SIZES, strict=True):
        wanted = in_tokens(weights[0].mean(dim=(0, 1)), size)
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)


def test_mean_query_and_keys_by_hand() -> None:
    host = VideoLlama3Twin()
    signals, output = observed(host, "mean-query")
    for got, keys, (query, key), size in zip(signals.saliency, signals.keys, last_layer(host), SIZES, strict=True):
        places = places_of(size)
        mean_query = rotated(query, places).mean(0)
        merged = in_tokens(rotated(key, places), size).flatten(0, 1)
        logits = (merged * mean_query).sum(-1) / query.shape[-1] ** 0.5
        wanted = torch.softmax(logits, dim=0).mean(1)
        torch.testing.assert_close(got.double().flatten(), wanted, atol=1e-6, rtol=0)
        torch.testing.assert_close(keys.double(), in_tokens(key.mean(1), size), atol=1e-5, rtol=0)
    means = [frame.mean(0) for frame in torch.split(torch.cat(output.pooler_output), SIZES)]
    torch.testing.assert_close(torch.stack(signals.frame_features), torch.stack(means))


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_chunks_across_videos(chunk: int) -> None:
    host = VideoLlama3Twin()
    whole, output = observed(host, "mean-query")
    parts, joined = observed(host, "mean-query", chunk)
    for name in ("saliency", "keys", "frame_features"):
        for one, other in zip(getattr(whole, name), getattr(parts, name), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    for name in ("pooler_output", "last_hidden_state"):
        for one, other in zip(getattr(output, name), getattr(joined, name), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_videos_of_two_shapes_in_a_batch() -> None:
    rows = [(RandomWords(3, 1), UNEVEN[0], RandomWords(5, 3)), (RandomWords(4, 6), UNEVEN[1], RandomWords(2, 7))]
    output = check(VideoLlama3Twin(), rows, Norms())
    assert [video.tokens_before for video in output.session.report.videos] == [36, 30]


def test_original_positions() -> None:
    """Kept tokens may have the place that they have in the unpruned prompt, as the model has no M-RoPE."""
    host, said = VideoLlama3Twin(), []
    for positions in ("contiguous", "original"):
        with tangovlm.attach(host.model, Norms(), positions=positions):
            said.append(host.model(**host.inputs([ONE])).logits[0, -1])
    assert not torch.allclose(said[0], said[1], atol=1e-3)


@pytest.mark.parametrize("turns", [(Image(20), Video(4, 21)), (Video(4, 20), Image(21)), UNEVEN])
def test_a_turn_with_pixels_of_its_own(turns: Any) -> None:
    host, pruner = VideoLlama3Twin(), Norms()
    first, second = (
        (RandomWords(3, 1 + 2 * turn), part, RandomWords(4, 2 + 2 * turn)) for turn, part in enumerate(turns)
    )
    with tangovlm.attach(host.model, pruner):
        row, said = second_turn(host, first, second)
    assert said == host.reference(row, pruner, NEW)[0]


# --- other sizes of tokens ------------------------------------------------------------------------------------------


def test_merge_sizes_other_than_the_usual() -> None:
    """Grids follow them; a method that needs no signals works, others are refused."""
    host = VideoLlama3Twin()
    inputs = host.inputs([ONE])
    patches = 4 * 36
    ids = torch.tensor([[10, 11, *[VIDEO] * patches, 12]])
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids), "video_merge_sizes": torch.tensor([1])}
    output = generate(host, inputs, Norms(0.25))
    assert (output.session.report.tokens_before, output.session.report.tokens_after) == (patches, patches // 4)
    with pytest.raises(InputError, match=r"video_merge_sizes are \[1\]: this method needs 2"):
        generate(host, inputs, tangovlm.Tango(retention=0.25))


# --- masks of the processor -----------------------------------------------------------------------------------------


class Masked(VideoLlama3Twin):
    """The processor has left out every token of which the mask says so, and its placeholder."""

    def mask(self, part: Video) -> Tensor:
        _, thw, _ = self.patches([part])
        generator = torch.Generator().manual_seed(part.seed + 100)
        return torch.rand(int(thw.prod()) // MERGE**2, generator=generator) > 0.4

    def pixels(self, parts: Any) -> dict[str, Any]:
        masks = [self.mask(part) for part in parts if isinstance(part, Video)]
        return super().pixels(parts) | ({"video_compression_mask": torch.cat(masks)} if masks else {})

    def encode_part(self, part: PromptPart, pruner: Any) -> EncodedPart:
        piece = super().encode_part(part, pruner)
        if not isinstance(part, Video):
            return piece
        assert piece.features is not None
        mask = self.mask(part)
        left = iter(mask.tolist())
        ids = [token for token in piece.ids if token != VIDEO or next(left)]
        kept = None if piece.kept is None else piece.kept[mask]
        return replace(piece, ids=ids, features=piece.features[mask], kept=kept)


@pytest.mark.parametrize("rows", [[ONE], [ONE, OTHER], [BOTH, TEXT], [(Image(3), *ONE)]])
def test_what_a_mask_leaves_out_does_not_come_back(rows: Any) -> None:
    host = Masked()
    output = check(host, rows, Norms())
    report = output.session.report
    videos = [part for row in rows for part in row if isinstance(part, Video)]
    kept = [host.encode_part(part, Norms()).kept for part in videos]
    assert [video.tokens_after for video in report.videos] == [int(stay.sum()) for stay in kept]
    assert [video.tokens_before for video in report.videos] == [len(host.mask(part)) for part in videos]
    assert any("video_compression_mask leaves out tokens" in note for note in report.notes)


def test_mask_at_full_retention_and_in_chunks() -> None:
    host = Masked()
    inputs = host.inputs([BOTH])
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True}
    stock = host.model.generate(**inputs, **options, output_logits=True)
    ours = generate(host, inputs, tangovlm.Tango(retention=1.0))
    assert all(torch.equal(one, other) for one, other in zip(ours.logits, stock.logits, strict=True))
    left = [int(host.mask(part).sum()) for part in BOTH if isinstance(part, Video)]
    assert [video.tokens_after for video in ours.session.report.videos] == left
    check(host, [BOTH], Norms(), chunk_frames=3)


def test_a_forward_takes_the_mask_too() -> None:
    host = Masked()
    with tangovlm.attach(host.model, Norms()):
        logits = host.model(**host.inputs([ONE])).logits
        text = host.model(**host.inputs([TEXT])).logits
    assert logits.shape[1] == host.length(ONE, Norms())
    torch.testing.assert_close(logits[0, -1], host.reference(ONE, Norms(), 1)[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(text[0, -1], host.reference(TEXT, Norms(), 1)[1], atol=1e-4, rtol=0)


def test_a_mask_that_keeps_everything_is_none() -> None:
    host = VideoLlama3Twin()
    inputs = host.inputs([ONE])
    wanted = generate(host, inputs, Norms())
    mask = torch.ones(36, dtype=torch.bool)
    got = generate(host, inputs | {"video_compression_mask": mask}, Norms())
    assert torch.equal(got.sequences, wanted.sequences)
    assert got.session.report.notes == wanted.session.report.notes
    inside = tangovlm.method("fastv", retention=0.5)
    wanted = generate(host, inputs, inside)
    got = generate(host, inputs | {"video_compression_mask": mask}, inside)
    assert torch.equal(got.sequences, wanted.sequences)


def test_beams_with_a_mask_where_stock_models_have_them() -> None:
    host = Masked()
    inputs = host.inputs([ONE])
    if encodes_first(host.model):
        with pytest.raises(ValueError, match="non-empty list"):
            host.model.generate(**inputs, max_new_tokens=1, num_beams=2, do_sample=False)
        return
    output = generate(host, inputs, Norms(), num_beams=2, max_new_tokens=3)
    assert output.sequences[0, inputs["input_ids"].shape[1] :].tolist() == beams(host, ONE, Norms(), 2, 3)


def test_masks_that_cannot_be_followed() -> None:
    host = Masked()
    inputs = host.inputs([ONE])
    with pytest.raises(InputError, match="video_compression_mask has 35 entries, but the videos 36 tokens"):
        generate(host, inputs | {"video_compression_mask": inputs["video_compression_mask"][:-1]}, Norms())
    with pytest.raises(InputError, match=r"pruning inside .* use_token_compression=False"):
        generate(host, inputs, tangovlm.method("fastv", retention=0.5))


# --- from frames to inputs ------------------------------------------------------------------------------------------


def test_grids_with_and_without_merge_sizes() -> None:
    host = VideoLlama3Twin()
    family, (pixels, thw, sides) = VideoLlama3(host.model), host.patches(UNEVEN)
    wanted = [Grid(4, 3, 3), Grid(3, 2, 5)]
    assert family.layout.grids(pixels, thw) == family.layout.grids(pixels, thw, sides) == wanted
    named = {"pixel_values_videos": pixels, "video_grid_thw": thw, "video_merge_sizes": torch.tensor([2, 1])}
    assert family.layout.grids(**named) == [Grid(4, 3, 3), Grid(3, 4, 10)]


@pytest.mark.parametrize("frames", [1, 5])
def test_prompts_are_those_of_the_stock_processor(frames: int) -> None:
    family, tokenizer = VideoLlama3(VideoLlama3Twin().model), ByteTokenizer("<pad>", *VideoLlama3Twin.specials)
    indices, fps = [0, 9, 21, 30, 47][:frames], 10.0
    pixels = torch.zeros(1, frames, 3, PATCH * MERGE * 2, PATCH * MERGE * 3)
    seconds = torch.tensor(indices, dtype=torch.float64) / fps
    template = (
        "{% for m in messages %}{% for c in m['content'] if c.type == 'video' %}<|video_pad|>{% endfor %}"
        "{% for c in m['content'] if c.type == 'text' %}{{ c.text }}{% endfor %}{% endfor %}"
    )
    made = family.prompt.inputs(tokenizer, template, pixels, "Why?", seconds)
    stub = SimpleNamespace(video_token="<|video_pad|>")
    processed = {
        "video_grid_thw": made["video_grid_thw"],
        "video_merge_sizes": made["video_merge_sizes"],
        "video_compression_mask": torch.ones(frames * 6, dtype=torch.bool),
        "video_metadata": [VideoMetadata(total_num_frames=60, fps=fps, frames_indices=indices)],
    }
    stock = VideoLlama3Processor.replace_video_token(stub, processed, 0)
    assert tokenizer.whole_text(made["input_ids"]) == stock + "Why?"
    assert made["video_grid_thw"].tolist() == [[frames, 4, 6]]
    assert int((made["input_ids"] == VIDEO).sum()) == frames * 6
    assert not (made["input_ids"] == IMAGE).any()
    # The model takes no others.
    names = {"input_ids", "attention_mask", "pixel_values_videos", "video_grid_thw", "video_merge_sizes"}
    assert made.keys() == names


def test_pixels_are_normalised_by_halves_unless_the_checkpoint_says_otherwise() -> None:
    family = VideoLlama3(VideoLlama3Twin().model)
    frames, size = torch.full((2, 3, 16, 24), 255, dtype=torch.uint8), {"size": VideoLlama3Twin.preprocessor["size"]}
    assert torch.equal(family.prompt.pixels(frames, size), torch.ones(1, 2, 3, 16, 24))
    config = size | {"image_mean": [0.0, 0.0, 0.0], "image_std": [0.25, 0.25, 0.25]}
    torch.testing.assert_close(family.prompt.pixels(frames, config), torch.full((1, 2, 3, 16, 24), 4.0))


def test_the_processors_own_dropping_of_tokens_is_said() -> None:
    family = VideoLlama3(VideoLlama3Twin().model)
    assert family.prompt.notes({}) == family.prompt.notes({"use_token_compression": True}) == (COMPRESSION,)
    assert family.prompt.notes({"use_token_compression": False}) == ()


def test_images_of_another_merge_size_are_refused_by_methods_that_read_the_encoder() -> None:
    family = VideoLlama3(VideoLlama3Twin().model).of_images()
    inputs = VideoLlama3Twin().pixels([Image(20)])
    needs = frozenset({"saliency"})
    with torch.no_grad(), family.signals.observe(needs) as signals:
        family.encoder.get_image_features(**inputs)
    assert isinstance(signals.saliency, list) and signals.saliency[0].shape == (6, 6)
    inputs["image_merge_sizes"] = torch.tensor([MERGE])
    assert family.layout.grids(**inputs) == [Grid(1, 3, 3)]
    with (
        family.signals.observe(needs),
        pytest.raises(InputError, match=r"image_merge_sizes are \[2\]: this method needs 1"),
    ):
        family.encoder.get_image_features(**inputs)
