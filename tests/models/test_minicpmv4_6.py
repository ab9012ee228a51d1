"""MiniCPM-V 4.6: signals, frames of a prompt, sizes, patches and text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional

import tangovlm
from tangovlm.errors import InputError, ModelError
from tangovlm.models.common.layout import Clip, Grid, Prompt
from tangovlm.models.common.prompt_format import VideoInput
from tangovlm.models.minicpmv4_6 import NO_SLICES, MiniCPMV46
from tangovlm.selfcheck.twins.common.parts import VIDEO, RandomWords, Video
from tangovlm.selfcheck.twins.minicpmv4_6 import END, PATCH, START, MiniCPMV46Twin
from tests.support.prompts import ByteTokenizer

NEEDS = frozenset({"saliency", "frame_features", "keys"})
SPECIAL = ("<pad>", "<|image_pad|>", "<|video_pad|>", "<image>", "</image>", "<image_id>", "</image_id>")
FRAME = Grid(1, 3, 3)


def token_means(values: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """Patches ``(rows * columns, c)`` to tokens ``(H, W, c)``, written out."""
    square = values.view(rows // side, side, columns // side, side, -1)
    return square.mean(dim=(1, 3))


@pytest.mark.parametrize(("mode", "insert"), [("16x", 1), ("4x", 1), ("16x", 2)])
@torch.no_grad()
def test_signals_of_the_last_layer(mode: str, insert: int) -> None:
    """Before or after windows are merged, for frames of two sizes."""
    if mode == "16x" and transformers.__version__.startswith("5.17."):
        pytest.skip("the stock tower of this release fails for frames of several sizes")
    host = MiniCPMV46Twin()
    tower, family = host.model.model.vision_tower, MiniCPMV46(host.model)
    tower.config.insert_layer_id = insert
    pixels, sizes = host.packed([Video(2, 1), Video(1, 2, wide=True)])
    entered: list[Tensor] = []
    hook = tower.encoder.layers[-1].layer_norm1.register_forward_hook(lambda _module, _args, out: entered.append(out))
    with family.signals.observe(NEEDS) as signals:
        output = host.model.model.get_video_features(pixels, sizes, downsample_mode=mode, return_dict=True)
    hook.remove()
    merged = mode == "16x" and insert < 2
    grids = (sizes // 2 if merged else sizes).tolist()
    side = 4 if mode == "16x" and not merged else 2
    attention = tower.encoder.layers[-1].self_attn
    frames = torch.split(entered[0][0], [rows * columns for rows, columns in grids])
    assert len(frames) == len(signals.saliency) == 3
    for number, (states, (rows, columns)) in enumerate(zip(frames, grids, strict=True)):
        query, key = (
            part(states).unflatten(-1, (4, 8)).transpose(0, 1) for part in (attention.q_proj, attention.k_proj)
        )
        received = (query @ key.transpose(1, 2) / 8**0.5).softmax(-1).mean(dim=(0, 1))
        wanted = token_means(received[:, None], rows, columns, side)[..., 0]
        torch.testing.assert_close(signals.saliency[number], wanted, atol=1e-6, rtol=1e-4)
        keys = token_means(key.mean(dim=0), rows, columns, side)
        torch.testing.assert_close(signals.keys[number], keys, atol=1e-5, rtol=1e-4)
        tokens = output.pooler_output[number]
        torch.testing.assert_close(signals.frame_features[number], tokens.mean(dim=0), atol=1e-5, rtol=1e-4)
        if insert == 1:
            assert wanted.numel() == len(tokens)


def ids_of(*parts: int | str) -> Tensor:
    """A prompt of words and frames ("f": 3 x 3 tokens, "w": 2 x 5)."""
    made: list[int] = []
    for part in parts:
        made += [part] if isinstance(part, int) else [START, *[VIDEO] * {"f": 9, "w": 10}[part], END]
    return torch.tensor([made])


def clips_of(ids: Tensor | None, count: int, frames: tuple[int, ...] | None = None, **options: Any) -> list[Clip]:
    layout = MiniCPMV46(MiniCPMV46Twin().model).layout
    sizes = torch.tensor([[12, 12]] * count)
    prompt = Prompt(ids, frames, **options)
    return layout.clips(prompt, pixel_values_videos=torch.zeros(1), target_sizes_videos=sizes)


def test_frames_of_videos() -> None:
    """Text between two frames ends a video, and so does another size; times tell apart what is adjacent."""
    assert clips_of(ids_of(20, "f", "f", 21), 2) == [Clip(FRAME._replace(frames=2), 0)]
    assert clips_of(ids_of("f", "f", 21, "f"), 3) == [Clip(FRAME._replace(frames=2), 0), Clip(FRAME, 2)]
    assert clips_of(ids_of("f", "f", "f"), 3, (1, 2)) == [Clip(FRAME, 0), Clip(FRAME._replace(frames=2), 1)]
    assert clips_of(ids_of("f", "f", "f"), 3, (3,)) == clips_of(None, 3) == [Clip(FRAME._replace(frames=3), 0)]
    two = torch.cat([ids_of("f", "f"), ids_of("f", "f")])
    assert clips_of(two, 4) == [Clip(FRAME._replace(frames=2), 0), Clip(FRAME._replace(frames=2), 2)]
    assert clips_of(ids_of("f", 20, "f", "f"), 2, continues=True) == [Clip(FRAME._replace(frames=2), 0)]
    layout = MiniCPMV46(MiniCPMV46Twin().model).layout
    sizes = torch.tensor([[12, 12], [8, 20]])
    clips = layout.clips(Prompt(ids_of("f", "w")), torch.zeros(1), sizes)
    assert clips == [Clip(FRAME, 0), Clip(Grid(1, 2, 5), 1)]
    assert layout.grids(torch.zeros(1), sizes, "4x") == [Grid(1, 6, 6), Grid(1, 4, 10)]


def test_prompts_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="placeholders for 1 frames, but 2 are given"):
        clips_of(ids_of("f"), 2)
    with pytest.raises(InputError, match="their sizes differ"):
        clips_of(ids_of("w"), 1)
    slices = torch.tensor([[START, *[VIDEO] * 9, END, 5, *[VIDEO] * 9, 6, 5, *[VIDEO] * 9, 6]])
    with pytest.raises(InputError, match="divided into slices, .* max_slice_nums=1"):
        clips_of(slices, 3)
    # Mostly, slices have another size than their frame.
    slices = torch.tensor([[START, *[VIDEO] * 10, END, 5, *[VIDEO] * 9, 6, 5, *[VIDEO] * 9, 6]])
    layout = MiniCPMV46(MiniCPMV46Twin().model).layout
    with pytest.raises(InputError, match="divided into slices, .* max_slice_nums=1"):
        layout.clips(Prompt(slices), torch.zeros(1), torch.tensor([[8, 20], [12, 12], [12, 12]]))


def test_slices_are_refused_by_name() -> None:
    host = MiniCPMV46Twin()
    inputs = host.inputs([(RandomWords(2, 1), Video(2, 3), RandomWords(2, 4))])
    ids = inputs["input_ids"]
    (starts,) = (ids[0] == START).nonzero(as_tuple=True)
    ids[0, starts[1]] = 5
    with (
        tangovlm.attach(host.model, tangovlm.method("uniform", retention=0.5)),
        pytest.raises(InputError, match="slices"),
    ):
        host.model.generate(**inputs, max_new_tokens=1)


def test_other_mergers_are_refused() -> None:
    model = MiniCPMV46Twin().model
    model.config.merger_times = 2
    with pytest.raises(ModelError, match="merges patches otherwise"):
        _ = MiniCPMV46(model).merge_size


# --- from a file to inputs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "wanted"),
    [(480, 640, (392, 504)), (1080, 1920, (336, 616)), (100, 100, (448, 448)), (1920, 1080, (616, 336)),
     (20, 4000, (56, 6216))],
)  # fmt: skip
def test_frame_size(height: int, width: int, wanted: tuple[int, int]) -> None:
    """Worked out by hand from the rule of the stock processor, with patches of 14 pixels."""
    model = MiniCPMV46Twin().model
    model.config.vision_config.patch_size = 14
    assert MiniCPMV46(model).prompt.frame_size({}, height, width) == wanted


def test_frames_that_are_not_resized() -> None:
    prompt = MiniCPMV46(MiniCPMV46Twin().model).prompt
    assert prompt.frame_size({"do_resize": False}, 32, 48) == (32, 48)
    with pytest.raises(InputError, match="multiples of 16 pixels"):
        prompt.frame_size({"do_resize": False}, 32, 40)
    with pytest.raises(ModelError, match="stack_frames 3"):
        prompt.pixels(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), {"stack_frames": 3})
    assert prompt.notes({}) == (NO_SLICES,)
    assert prompt.notes({"max_slice_nums": 1}) == prompt.notes({"slice_mode": False}) == ()


def test_patches() -> None:
    """As the stock processor packs them: of each frame in turn, those of a row side by side."""
    host = MiniCPMV46Twin()
    prompt = MiniCPMV46(host.model).prompt
    frames = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = prompt.pixels(frames, {"do_resize": False})
    made = prompt.media_kwargs(VideoInput(pixels))
    assert made["target_sizes_videos"].tolist() == [[8, 12]] * 2
    wanted = [
        pixels[0, number, :, PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)]
        for number in range(2)
        for row in range(8)
        for column in range(12)
    ]
    assert torch.equal(made["pixel_values_videos"], torch.cat(wanted, dim=-1)[None])
    unfolded = functional.unfold(pixels[0], PATCH, stride=PATCH)
    assert made["pixel_values_videos"].numel() == unfolded.numel()


@pytest.mark.parametrize("numbered", [True, False])
def test_prompt(numbered: bool) -> None:
    host, tokenizer = MiniCPMV46Twin(), ByteTokenizer(*SPECIAL)
    family = MiniCPMV46(host.model, config={} if numbered else {"use_image_id": False})
    template = (
        "USER: {% for c in messages[0].content %}{{ '<|video_pad|>' if c.type == 'video' else c.text }}{% endfor %}"
    )
    pixels = torch.zeros(1, 2, 3, 32, 48)
    inputs = family.prompt.inputs(tokenizer, template, pixels, "Why?")
    frame = "<image>" + "<|video_pad|>" * 6 + "</image>"
    number = "<image_id>0</image_id>" if numbered else ""
    assert tokenizer.whole_text(inputs["input_ids"]) == f"USER: {number}{frame}{frame}Why?"
    assert "mm_token_type_ids" not in inputs
    with pytest.raises(InputError, match="'<image>', which stands for visual tokens"):
        family.prompt.inputs(tokenizer, template, pixels, "an <image>?")
