"""LLaVA-Video's own parts; `test_generate` has what all families share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

import tangovlm
from tangovlm import registry
from tangovlm.checkpoints import head_weights
from tangovlm.checkpoints import llava_original as original
from tangovlm.errors import InputError, ModelError
from tangovlm.models.common.layout import Grid
from tangovlm.models.llava_video import LlavaVideo, time_instruction
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import VIDEO, Image, RandomWords, Video
from tangovlm.selfcheck.twins.llava_video import SIDE, LlavaVideoTwin
from tangovlm.tokens import Selection, VideoTokens
from tests.support import original_format
from tests.support.checkpoints import write_clip

HALF = SIDE // 2
PER_FRAME = HALF * (HALF + 1)


@pytest.fixture(scope="module")
def host() -> LlavaVideoTwin:
    return LlavaVideoTwin()


def videos(host: LlavaVideoTwin, count: int, frames: int) -> Tensor:
    return torch.stack([host.frames(Video(frames, seed)) for seed in range(count)])


def by_hand(patches: Tensor) -> Tensor:
    """Means of 2 x 2 of ``(F, SIDE * SIDE, C)``, corner by corner: ``(F, HALF, HALF, C)``."""
    square = patches.view(-1, SIDE, SIDE, patches.shape[-1])[:, : 2 * HALF, : 2 * HALF]
    return (square[:, ::2, ::2] + square[:, ::2, 1::2] + square[:, 1::2, ::2] + square[:, 1::2, 1::2]) / 4


def test_family_of_the_model(host: LlavaVideoTwin) -> None:
    """Its class is a LlavaOnevisionForConditionalGeneration too."""
    assert isinstance(host.model, LlavaOnevisionForConditionalGeneration)
    assert registry.family_for(host.model) is LlavaVideo


def test_the_most_newlines_that_kept_tokens_can_take_along() -> None:
    family = LlavaVideo(LlavaVideoTwin().model)
    grid = family.layout.grid(2)
    for kept in range(1, grid.tokens + 1):
        # One in every row of the grid, as long as there are rows, and then the next of every row.
        spread = torch.arange(grid.tokens).view(-1, grid.width).T.flatten()[:kept].sort().values
        selection = Selection(spread, torch.empty(kept, 0), torch.empty(*grid), (2,))
        most = int(family.layout.kept_features(selection, grid).sum())
        assert int(family.layout.tokens_within(most, grid)) == kept
        assert int(family.layout.tokens_within(most - 1, grid)) < kept


# --- features and signals ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_features(host: LlavaVideoTwin) -> None:
    output = host.model.model.get_video_features(videos(host, 2, 3), return_dict=True)
    wanted = torch.stack([host.encode(Video(3, seed)).features for seed in range(2)])
    torch.testing.assert_close(output.pooler_output, wanted, atol=1e-5, rtol=0)
    as_tuple = host.model.model.get_video_features(videos(host, 2, 3), return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert any(torch.equal(entry, output.pooler_output) for entry in as_tuple if isinstance(entry, Tensor))


@torch.no_grad()
def test_images_are_those_of_llava_onevision(host: LlavaVideoTwin) -> None:
    stock = LlavaOnevisionForConditionalGeneration(host.model.config).eval()
    stock.load_state_dict(host.model.state_dict())
    inputs = host.inputs([(RandomWords(3, 1), Image(2), RandomWords(4, 3))])
    assert torch.equal(host.model(**inputs).logits, stock(**inputs).logits)


@pytest.mark.parametrize("saliency", ["p-attn", "attn"])
@torch.no_grad()
def test_signals(saliency: str) -> None:
    """Against the eager model's own attention and head, pooled by hand."""
    host, needs = LlavaVideoTwin(attention="eager"), frozenset({"saliency", "frame_features", "keys"})
    pixels = videos(host, 2, 3)
    with LlavaVideo(host.model, saliency=saliency).signals.observe(needs) as signals:
        host.model.model.get_video_features(pixels, return_dict=True)
    tower = host.model.model.vision_tower
    output = tower(pixels.flatten(0, 1), output_attentions=True, output_hidden_states=True)
    probe, layer = tower.head.probe.expand(6, -1, -1), tower.encoder.layers[-1]
    scores = {
        "p-attn": tower.head.attention(probe, output.last_hidden_state, output.last_hidden_state)[1][:, 0],
        "attn": output.attentions[-1].mean(dim=(1, 2)),
    }
    keys = layer.self_attn.k_proj(layer.layer_norm1(output.hidden_states[-2])).unflatten(-1, (4, 8)).mean(2)
    torch.testing.assert_close(signals.saliency, by_hand(scores[saliency][..., None])[..., 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(signals.frame_features, output.pooler_output, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(signals.keys, by_hand(keys), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk_frames", [1, 2, 4, 5])
@torch.no_grad()
def test_chunks_of_several_videos(host: LlavaVideoTwin, chunk_frames: int) -> None:
    pixels, method = videos(host, 2, 3), host.model.model.get_video_features
    family = LlavaVideo(host.model)
    whole = method(pixels, return_dict=True).pooler_output
    output = family.encoding.encode(method, chunk_frames, pixels, return_dict=True)
    torch.testing.assert_close(output.pooler_output, whole, atol=1e-5, rtol=0)
    assert isinstance(family.encoding.encode(method, chunk_frames, pixels, return_dict=False), tuple)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(dtype: torch.dtype) -> None:
    host = LlavaVideoTwin()
    host.model.to(dtype)
    inputs = host.inputs([(RandomWords(3, 1), Video(4, 2), RandomWords(4, 3))])
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(dtype)
    stock = host.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    for retention in (1.0, 0.25):
        with tangovlm.attach(host.model, tangovlm.Tango(retention=retention), timestamps=torch.arange(4.0)) as session:
            output = host.model.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert session.report.tokens_after == round(36 * retention)
        assert retention < 1 or torch.equal(output, stock)


# --- newlines ---------------------------------------------------------------------------------------------------------


def selection(indices: list[int], frames: int) -> Selection:
    kept = torch.tensor(indices)
    return Selection(kept, torch.zeros(len(kept), 1), torch.full((frames, HALF, HALF), -1), (frames,))


@pytest.mark.parametrize("indices", [[0], [8], [2, 3, 13], list(range(18)), [0, 4, 8, 9, 17]])
def test_a_newline_stays_iff_its_row_keeps_a_token(host: LlavaVideoTwin, indices: list[int]) -> None:
    family, grid = LlavaVideo(host.model), Grid(2, HALF, HALF)
    wanted, place = [], 0
    for _frame in range(2):
        for _row in range(HALF):
            row = [place + column in indices for column in range(HALF)]
            wanted += [*row, any(row)]
            place += HALF
    assert family.layout.kept_features(selection(indices, 2), grid).tolist() == wanted
    assert family.layout.feature_count(grid) == len(wanted) == 2 * PER_FRAME
    assert family.layout.grid_indices(grid).tolist() == [row for row in range(len(wanted)) if row % (HALF + 1) != HALF]


@dataclass(frozen=True)
class Chosen:
    """Keeps given tokens as they are."""

    indices: tuple[int, ...]
    retention: float = 0.5
    name: ClassVar[str] = "chosen"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, tokens: VideoTokens) -> Selection:
        kept = torch.tensor(self.indices)
        sources = torch.full((tokens.count,), -1)
        sources[kept] = torch.arange(len(kept))
        features = tokens.features.flatten(0, 2)[kept]
        return Selection(kept, features, sources.view(tokens.features.shape[:3]), (tokens.frames,))


@pytest.mark.parametrize(("indices", "newlines"), [((0,), 1), ((17,), 1), ((0, 1, 2), 1), ((2, 3, 17), 3)])
def test_length_of_the_prompt(host: LlavaVideoTwin, indices: tuple[int, ...], newlines: int) -> None:
    """Also the newline behind the last row goes, if that row does."""
    row, pruner = (RandomWords(3, 1), Video(2, 2), RandomWords(4, 3)), Chosen(indices)
    with tangovlm.attach(host.model, pruner), torch.no_grad():
        logits = host.model(**host.inputs([row])).logits
    assert logits.shape[1] == 3 + len(indices) + newlines + 4
    torch.testing.assert_close(logits[0, -1], host.reference(row, pruner, 1)[1], atol=1e-4, rtol=0)


# --- from a file to inputs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder, model = tmp_path_factory.mktemp("stock"), original_format.make(video=True)
    original_format.write_stock(folder, model, original.TEMPLATE)
    return tangovlm.load(folder, device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def test_time_instruction() -> None:
    assert time_instruction([0.0, 1.256, 12.5]) == (
        "The video lasts for 12.50 seconds, and 3 frames are uniformly sampled from it. These frames are located at "
        "0.00s,1.26s,12.50s.Please answer the following questions related to this video."
    )


def test_prompt(llm: Any) -> None:
    pixels, seconds = torch.zeros(1, 2, 3, 49, 49), torch.tensor([0.0, 1.5])
    inputs = llm.family.prompt.inputs(llm.tokenizer, llm.template, pixels, "where is it?", seconds)
    prompt = llm.tokenizer.decode(inputs["input_ids"][0])
    video = "<video>" * 2 * PER_FRAME
    told = f"user\n{video}\n{time_instruction([0.0, 1.5])}\nwhere is it?<|im_end|>\n<|im_start|>assistant\n"
    # The tiny vocabulary has no capitals but Y.
    assert prompt.endswith(told.replace("The", "he").replace("These", "hese").replace("Please", "lease"))
    assert prompt.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<video>")
    unknown = llm.family.prompt.inputs(llm.tokenizer, llm.template, pixels, "where is it?")
    known = llm.family.prompt.inputs(llm.tokenizer, llm.template, pixels, "where is it?", torch.arange(2.0))
    assert torch.equal(unknown["input_ids"], known["input_ids"])


def test_config_without_time_instruction(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm.model.config, "add_time_instruction", False, raising=False)
    inputs = llm.family.prompt.inputs(llm.tokenizer, llm.template, torch.zeros(1, 2, 3, 49, 49), "where is it?")
    assert "<video>\nwhere is it?<|im_end|>" in llm.tokenizer.decode(inputs["input_ids"][0])


@pytest.mark.parametrize("question", ["", "  ", "a <video> here", "an <image> here"])
def test_bad_questions(llm: Any, question: str) -> None:
    with pytest.raises(InputError, match="question"):
        llm.family.prompt.inputs(llm.tokenizer, llm.template, torch.zeros(1, 2, 3, 49, 49), question)


def test_decoding_ahead(llm: Any, clip: Path) -> None:
    """Pixels that are filled in while the tower runs give the same answer."""
    options: dict[str, Any] = {"model": llm, "method": Norms(0.4), "frames": 6, "max_new_tokens": 5, "chunk_frames": 4}
    plain = tangovlm.ask(clip, "what is it?", **options, overlap=False)
    ahead = tangovlm.ask(clip, "what is it?", **options, overlap=True)
    assert plain == ahead
    assert (plain.tokens_before, plain.tokens_after) == (ahead.tokens_before, ahead.tokens_after) == (54, 22)


def test_head_that_cannot_be_fetched(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published checkpoints have no pooling head: the published SigLIP's is wanted, or a file that is named."""
    monkeypatch.setattr(head_weights, "_PUBLISHED_WIDTH", 32)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"model\.safetensors of google/siglip-so400m-patch14-384.*--head-weights"):
        tangovlm.attach(llm.model, tangovlm.Tango(retention=0.5)).__enter__()


def test_placeholders_of_the_host(host: LlavaVideoTwin) -> None:
    assert LlavaVideo(host.model).layout.placeholder == VIDEO
