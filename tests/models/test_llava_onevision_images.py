"""Images of LLaVA-OneVision in tiles: the picture and the rows of the tiles are pruned by themselves, newlines stay."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import tangovlm
from tangovlm import budget
from tangovlm.models.llava_onevision import LlavaOnevision
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import EncodedPart, Image, PromptPart, PromptParts, RandomWords, Video
from tangovlm.selfcheck.twins.common.weights import random
from tangovlm.selfcheck.twins.llava_onevision import PATCH, SIDE, LlavaOnevisionTwin
from tangovlm.tokens import Pruner, VideoTokens

PIXELS, NEW = PATCH * SIDE, 4
GREEDY: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
# By seed of the image: its size, its tiles with the whole picture, and rows and columns of tokens without padding.
SQUARE, WIDE, FLAT = 20, 21, 22
KINDS = {
    SQUARE: ((PIXELS, PIXELS), 2, (SIDE, SIDE)),
    WIDE: ((PIXELS, 2 * PIXELS), 3, (SIDE, 2 * SIDE)),
    # All rows but those in the middle are padding.
    FLAT: ((PIXELS // SIDE, 2 * PIXELS), 3, (2, 2 * SIDE)),
}


class ImageTwin(LlavaOnevisionTwin):
    """With images of several sizes in a prompt."""

    prunes_images = True

    def image(self, part: Image) -> dict[str, Any]:
        size, tiles, _ = KINDS[part.seed]
        return {"pixel_values": random((1, tiles, 3, PIXELS, PIXELS), part.seed), "image_sizes": torch.tensor([size])}

    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        found = super().pixels([part for part in parts if isinstance(part, Video)])
        images = [self.image(part) for part in parts if isinstance(part, Image)]
        if images:
            pixels = [image["pixel_values"] for image in images]
            most = max(each.shape[1] for each in pixels)
            padded = [functional.pad(each, (0, 0) * 3 + (0, most - each.shape[1])) for each in pixels]
            found["pixel_values"] = torch.cat(padded)
            found["image_sizes"] = torch.cat([image["image_sizes"] for image in images])
        return found

    def encode_part(self, part: PromptPart, pruner: Pruner | None) -> EncodedPart:
        piece = super().encode_part(part, None if isinstance(part, Image) else pruner)
        if not isinstance(part, Image) or pruner is None:
            return piece
        assert piece.features is not None
        whole, (rows, columns) = SIDE * SIDE, KINDS[part.seed][2]
        features, kept = piece.features.clone(), torch.ones(len(piece.features), dtype=torch.bool)
        places = whole + torch.arange(rows * (columns + 1)).view(rows, -1)[:, :-1].flatten()
        assert len(features) == whole + rows * (columns + 1)
        for indices, (height, width) in ((torch.arange(whole), (SIDE, SIDE)), (places, (rows, columns))):
            selection = pruner(VideoTokens(features[indices].view(1, height, width, -1)))
            kept[indices] = False
            kept[indices[selection.indices]] = True
            features[indices[selection.indices]] = selection.features
        return replace(piece, features=features, kept=kept)


@pytest.fixture(scope="module")
def twin() -> ImageTwin:
    return ImageTwin()


MIXED: PromptParts = (RandomWords(3, 1), Image(FLAT), RandomWords(2, 2), Video(4, 3), Image(SQUARE), RandomWords(4, 4))


@pytest.mark.parametrize(
    "row",
    [*((RandomWords(3, 1), Image(seed), RandomWords(4, 2)) for seed in KINDS), MIXED],
    ids=["square", "wide", "flat", "beside a video"],
)
@pytest.mark.parametrize("retention", [0.5, 0.2])
def test_answers_are_those_of_the_reference(twin: ImageTwin, row: PromptParts, retention: float) -> None:
    pruner, inputs = Norms(retention), twin.inputs([row])
    with tangovlm.attach(twin.model, pruner, images=True) as session:
        output = twin.model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_logits=True)
    tokens, logits = twin.reference(row, pruner, NEW)
    assert output.sequences[0, inputs["input_ids"].shape[1] :].tolist() == tokens
    torch.testing.assert_close(output.logits[0][0], logits, atol=1e-4, rtol=1e-4)
    for report in session.report.videos:
        assert report.tokens_after == budget.count(retention, report.tokens_before)
        assert report.newlines_after == report.newlines_before
    images = [report for report in session.report.videos if report.medium == "image"]
    sizes = [SIDE * SIDE if half == 0 else rows * columns for rows, columns in grids_of(row) for half in (0, 1)]
    assert [report.tokens_before for report in images] == sizes


def grids_of(row: PromptParts) -> list[tuple[int, int]]:
    return [KINDS[part.seed][2] for part in row if isinstance(part, Image)]


def test_several_images_of_a_prompt_are_single_tiles(twin: ImageTwin) -> None:
    """With `batch_num_images`, as the stock processor gives it."""
    inputs = {
        "pixel_values": random((2, 1, 3, PIXELS, PIXELS), 5),
        "image_sizes": torch.tensor([[PIXELS, PIXELS]] * 2),
        "batch_num_images": torch.tensor([2]),
    }
    ids = torch.tensor([[11, *[1] * (SIDE * SIDE + 1), 12, *[1] * (SIDE * SIDE + 1), 13, 14]])
    with torch.no_grad(), tangovlm.attach(twin.model, Norms(0.2), images=True) as session:
        logits = twin.model(input_ids=ids, **inputs).logits
    kept = budget.count(0.2, SIDE * SIDE)
    assert [report.tokens_after for report in session.report.videos] == [kept] * 2
    assert logits.shape[1] == 4 + 2 * (kept + 1)


def test_full_retention_is_bit_identical(twin: ImageTwin) -> None:
    inputs = twin.inputs([MIXED])
    with torch.no_grad():
        stock = twin.model(**inputs).logits
        with tangovlm.attach(twin.model, tangovlm.Tango(retention=1.0), images=True):
            assert torch.equal(twin.model(**inputs).logits, stock)


@pytest.mark.parametrize("saliency", ["p-attn", "attn"])
def test_maps_are_packed_as_features_are(twin: ImageTwin, saliency: str) -> None:
    """Those of the tiles are side by side; those of padding are left out."""
    family = LlavaOnevision(twin.model, saliency=saliency).of_images()
    for seed, rows in ((WIDE, slice(0, SIDE)), (FLAT, slice(2, 4))):
        inputs = twin.inputs([(RandomWords(3, 1), Image(seed), RandomWords(4, 2))])
        method = tangovlm.method("topk")
        with tangovlm.attach(twin.model, method, images=True, saliency=saliency, record=True) as session:
            twin.model.generate(**inputs, **GREEDY)
        with family.signals.observe(frozenset({"saliency"})) as signals, torch.no_grad():
            twin.model.model.vision_tower(inputs["pixel_values"][0])
        tiles = signals.saliency
        assert isinstance(tiles, Tensor) and tiles.shape == (3, SIDE, SIDE)
        found = [video.saliency for video in session.videos]
        torch.testing.assert_close(found[0], tiles[:1])
        torch.testing.assert_close(found[1], torch.cat([tiles[1], tiles[2]], dim=1)[None, rows])


def test_every_method_keeps_exactly_its_budget(twin: ImageTwin) -> None:
    inputs = twin.inputs([MIXED])
    for name in ("tango", "milonga", "divprune", "fastvid", "holitom", "flashvid", "visionzip", "prunevid", "unicomp"):
        with tangovlm.attach(twin.model, tangovlm.method(name, retention=0.4), images=True) as session:
            twin.model.generate(**inputs, **GREEDY)
        assert all(each.tokens_after == budget.count(0.4, each.tokens_before) for each in session.report.videos), name
