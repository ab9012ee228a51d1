"""A dry run counts what a run then reads, for every family and several methods, without weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.cache_utils import LinearAttentionLayer

import tangovlm
from tangovlm.errors import InputError, MethodError, ModelError, VideoError
from tangovlm.machine.flops import prefill_flops
from tangovlm.methods.build import Pair
from tangovlm.models.common.transformers_compat import Arg
from tangovlm.pipeline.cost import _layer_shape, _weights_of
from tangovlm.pipeline.dry_run import DryRun, dry_run
from tangovlm.pipeline.generation import decode_for, model_inputs
from tangovlm.pipeline.load import VideoLLM
from tangovlm.selfcheck.twins import load as load_twin
from tangovlm.video import FrameSampling
from tests.pipeline.test_ask_families import FRAMES, QUESTION, write_checkpoint
from tests.session.test_generate_families import HOSTS
from tests.support.adaptive import LargeTokens, adaptive
from tests.support.checkpoints import write_clip

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FASTV = tangovlm.method("fastv", keep_ratio=0.5, layer=1)
METHODS: dict[str, Any] = {
    "unpruned": tangovlm.method("tango", retention=1.0),
    "tango": tangovlm.method("tango", retention=0.3),
    "fixed": LargeTokens(retention=0.6),
    "adaptive": adaptive(0.8),
    "fastv": FASTV,
    "pyramiddrop": tangovlm.method("pyramiddrop", layers=(1,), ratios=(0.3,)),
    "pair": Pair(LargeTokens(), FASTV, retention=0.4),
    "flexselect": tangovlm.method("flexselect", retention=0.5, layer=1),
    "flexselect in groups": tangovlm.method("flexselect", retention=0.5, layer=1, frames_per_group=1),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="module", params=HOSTS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(HOSTS[request.param](), folder)
    return folder


def kv_bytes(cache: Any) -> int:
    return sum(
        state.nbytes
        for layer in cache.layers
        for state in (
            (*layer.conv_states.values(), *layer.recurrent_states.values())
            if isinstance(layer, LinearAttentionLayer)
            else (layer.keys, layer.values)
        )
        if state is not None
    )


def attach_once(model: Any, method: Any) -> None:
    with tangovlm.attach(model, method):
        pass


def refusal(call: Callable[..., Any], *args: Any, **options: Any) -> str | None:
    try:
        call(*args, **options)
    except ModelError as error:
        return str(error)
    return None


def compare(run: DryRun, llm: VideoLLM, clip: Path, method: Any, newlines: str = "kept") -> None:
    frames = decode_for(llm, clip, FrameSampling(FRAMES), lambda *_: None)
    inputs = model_inputs(llm, frames, QUESTION)
    with tangovlm.attach(llm.model, method, timestamps=frames.timestamps_s, newlines=newlines) as session:
        output = llm.model.generate(**inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True)
    (video,) = session.report.videos
    assert torch.equal(run.frames.timestamps_s, frames.timestamps_s)
    assert (run.method, run.retention) == (video.method, video.retention)
    assert (run.before.tokens, run.before.newlines) == ((video.tokens_before,) * 2, (video.newlines_before,) * 2)
    assert run.after.tokens.least <= video.tokens_after <= run.after.tokens.most
    assert run.after.newlines.least <= video.newlines_after <= run.after.newlines.most
    assert run.before.prompt_tokens.most == inputs[Arg.IDS].shape[1]
    assert run.first_pass_groups == video.first_pass_groups
    held = output.past_key_values.get_seq_length()
    assert run.after.prompt_tokens.least <= held <= run.after.prompt_tokens.most
    if run.after.prompt_tokens.least == run.after.prompt_tokens.most:
        assert run.after.tokens_per_layer == video.tokens_per_layer
        assert run.after.kv_bytes == kv_bytes(output.past_key_values)
    else:
        assert run.after.kv_bytes >= kv_bytes(output.past_key_values)


def test_counts_are_those_of_a_run(folder: Path, clip: Path) -> None:
    llm = tangovlm.load(folder)
    ran = 0
    for name, method in METHODS.items():
        if (wanted := refusal(attach_once, llm.model, method)) is not None:
            assert refusal(dry_run, clip, QUESTION, model=folder, method=method) == wanted, name
            continue
        run = dry_run(clip, QUESTION, model=folder, method=method)
        assert run.refusal is None
        compare(run, llm, clip, method)
        is_exact = run.after.prompt_tokens.least == run.after.prompt_tokens.most
        assert is_exact or name == "adaptive" or llm.family.name == "llava-video", name
        ran += 1
    assert ran >= 4
    assert dry_run(clip, QUESTION, model=llm, retention=0.5).as_dict() == dry_run(
        clip, QUESTION, model=folder, retention=0.5
    ).as_dict() | {"model": str(folder)}


def test_flops_of_the_stock_prefill_are_what_pytorch_counts(folder: Path, clip: Path) -> None:
    llm = tangovlm.load(folder)
    # PyTorch does not count the fused attention of the CPU.
    llm.model.set_attn_implementation("eager")
    decoder, run = llm.family.decoder, dry_run(clip, QUESTION, model=folder, retention=1.0)
    experts = getattr(decoder.config, "enable_moe_block", False) or "moe" in type(llm.model).__name__.lower()
    if experts or llm.family.recurrent:
        pytest.skip(
            "PyTorch does not count the products of experts, and counts those of the chunks of recurrent layers"
        )
    embeds = torch.zeros(1, run.before.prompt_tokens.most, llm.family.width)
    inputs: dict[str, Any] = {Arg.EMBEDS: embeds, Arg.USE_CACHE: False}
    if size := getattr(decoder.config, "hidden_size_per_layer_input", 0):
        inputs[Arg.LAYER_INPUTS] = torch.zeros(*embeds.shape[:2], len(decoder.layers), size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder(**inputs)
    # Tables of rotary embeddings are products of one column.
    assert 0 <= counter.get_total_flops() - run.before.flops < 0.01 * run.before.flops
    assert run.after.flops == run.before.flops


# --- one family -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    write_checkpoint(HOSTS["llava_onevision"](), folder)
    return folder


def test_flops_of_pruned_layers_are_those_of_the_formula(one: Path, clip: Path) -> None:
    config = tangovlm.load(one).family.decoder.config  # type: ignore[attr-defined]
    sizes: dict[str, int] = {
        "hidden": config.hidden_size,
        "intermediate": config.intermediate_size,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
    }
    run = dry_run(clip, QUESTION, model=one, method=METHODS["pair"])
    text = run.before.prompt_tokens.most - run.before.tokens.most
    assert len(set(run.after.tokens_per_layer)) == 2
    assert run.after.flops == 2 * prefill_flops([text + n for n in run.after.tokens_per_layer], **sizes)
    groups = dry_run(clip, QUESTION, model=one, method=METHODS["flexselect in groups"])
    read = [text + n for n in (*groups.first_pass_groups, *groups.after.tokens_per_layer)]
    assert len(groups.first_pass_groups) == FRAMES
    assert groups.after.flops == 2 * prefill_flops(read, **sizes)


def test_weights_of_experts() -> None:
    twin = load_twin("qwen3_vl_moe")()
    decoder = twin.model.get_decoder()
    config = decoder.config
    width, heads, kv_heads = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    attention = 2 * width * config.head_dim * (heads + kv_heads)
    experts = 3 * width * config.moe_intermediate_size * config.num_experts_per_tok
    assert _weights_of(decoder.layers[0], config) == attention + experts + width * config.num_experts


def test_products_of_recurrent_layers() -> None:
    twin = load_twin("qwen3_5")()
    decoder = twin.model.get_decoder()
    config = decoder.config
    width, key_heads, heads = config.hidden_size, config.linear_num_key_heads, config.linear_num_value_heads
    keys, values = key_heads * config.linear_key_head_dim, heads * config.linear_value_head_dim
    mixed = 2 * keys + values
    products = width * (mixed + values + 2 * heads) + values * width + 3 * width * config.intermediate_size
    state = heads * config.linear_key_head_dim * config.linear_value_head_dim
    found, convolution = _layer_shape(decoder.layers[0], config), mixed * config.linear_conv_kernel_dim
    assert _weights_of(decoder.layers[0], config) == products
    assert (found.products, found.attention_width) == (convolution + 3 * state, 0)
    assert found.cached(1, 2) == found.cached(100, 2) == 2 * convolution + 4 * state


def test_newlines_in_the_budget(clip: Path, tmp_path: Path) -> None:
    write_checkpoint(HOSTS["llava_video"](), tmp_path)
    run = dry_run(clip, QUESTION, model=tmp_path, method=METHODS["fixed"], newlines="counted")
    compare(run, tangovlm.load(tmp_path), clip, METHODS["fixed"], newlines="counted")
    assert run.after.tokens.least < run.after.tokens.most


def test_no_weights_are_read(one: Path, clip: Path, tmp_path: Path) -> None:
    for file in one.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    run = dry_run(clip, QUESTION, model=tmp_path, retention=0.5)
    assert run.as_dict() == dry_run(clip, QUESTION, model=one, retention=0.5).as_dict() | {"model": str(tmp_path)}
    half = dry_run(clip, QUESTION, model=tmp_path, retention=0.5, dtype=torch.bfloat16)
    assert (half.dtype, half.after.kv_bytes * 2) == (torch.bfloat16, run.after.kv_bytes)


def test_a_prompt_that_will_be_refused(one: Path, clip: Path, tmp_path: Path) -> None:
    write_checkpoint(HOSTS["llava_onevision"](), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    needed = dry_run(clip, QUESTION, model=one, retention=0.5).after.prompt_tokens.most
    config["text_config"]["max_position_embeddings"] = needed - 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = dry_run(clip, QUESTION, model=tmp_path, retention=0.5)
    with pytest.raises(InputError) as caught:
        tangovlm.ask(clip, QUESTION, model=tmp_path, retention=0.5)
    assert run.refusal == str(caught.value)
    assert run.as_dict()["fits"] is False
    assert f"will be refused: {run.refusal}" in str(run)
    assert dry_run(clip, QUESTION, model=tmp_path, retention=0.4).refusal is None


def test_bad_input(one: Path, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty"):
        dry_run(clip, " ", model=one)
    with pytest.raises(InputError, match="retention"):
        dry_run(clip, QUESTION, model=one, retention=2.0)
    with pytest.raises(MethodError, match="unknown method"):
        dry_run(clip, QUESTION, model=one, method="tanga")
    with pytest.raises(InputError, match="newlines"):
        dry_run(clip, QUESTION, model=one, newlines="all")
    with pytest.raises(VideoError, match="missing"):
        dry_run(clip.with_name("missing.mp4"), QUESTION, model=one)
    with pytest.raises(ModelError, match=r"reads the config, the preprocessor config and the tokenizer"):
        dry_run(clip, QUESTION, model=tmp_path / "none")


def test_a_hub_id_that_was_not_downloaded(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.checkpoints.hub.reachable", lambda: False)
    with pytest.raises(ModelError, match="has not been downloaded, and the hub cannot be reached.*the tokenizer"):
        dry_run(clip, QUESTION, model="nobody/nothing-of-this-name")
