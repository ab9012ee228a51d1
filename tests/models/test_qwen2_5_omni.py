"""Sound inside and beside videos of Qwen's Omni models, and the thinker of a checkpoint of the whole Qwen2.5-Omni."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open

pytest.importorskip("transformers", minversion="5.21")

from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor
from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import Qwen3OmniMoeProcessor

import tangovlm
from tangovlm import registry
from tangovlm.errors import InputError, ModelError
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import IMAGE, VIDEO, Image, PromptParts, RandomWords, TokenIds, Video
from tangovlm.selfcheck.twins.qwen2_5_omni import AUDIO, AUDIO_END, AUDIO_START, Qwen25OmniTwin
from tests.pipeline.test_ask_families import write_checkpoint
from tests.session.test_generate_families import BOTH, NEW, ONE, WAYS, beams, check, generate
from tests.support.recording import recorded
from tests.support.sound import Hearing, Hearing3, HearingTwin, Sound, VideoWithSound

LONG, SHORT = 80, 7
"""Frames of a spectrogram: four of them are one token, and a token is a third of a second."""
WITH: PromptParts = (RandomWords(3, 1), VideoWithSound(8, 2), RandomWords(5, 3))
OTHER: PromptParts = (RandomWords(7, 4), VideoWithSound(6, 5, sound=LONG), RandomWords(4, 6))
PAIR: PromptParts = (*WITH, VideoWithSound(4, 9, wide=True, sound=SHORT), RandomWords(4, 12))
BESIDE: PromptParts = (RandomWords(2, 1), Sound(7), RandomWords(2, 2), Video(8, 3), RandomWords(3, 4))
AFTER: PromptParts = (RandomWords(2, 1), Video(8, 3), RandomWords(2, 2), Sound(7), RandomWords(3, 4))
ALL: PromptParts = (Image(20), RandomWords(2, 1), *WITH, Sound(7), RandomWords(3, 2))

PROCESSORS: dict[str, Any] = {"qwen2.5-omni": Qwen2_5OmniProcessor, "qwen3-omni": Qwen3OmniMoeProcessor}


@pytest.fixture(scope="module", params=[Hearing, Hearing3])
def host(request: pytest.FixtureRequest) -> HearingTwin:
    made: HearingTwin = request.param()
    return made


def stock_positions(host: HearingTwin, inputs: dict[str, Any]) -> torch.Tensor:
    mask = inputs.get("feature_attention_mask")
    positions, _ = host.model.get_rope_index(
        inputs["input_ids"], inputs.get("image_grid_thw"), inputs["video_grid_thw"], inputs["attention_mask"],
        inputs.get("use_audio_in_video", False), None if mask is None else mask.sum(1), inputs["video_second_per_grid"],
    )  # fmt: skip
    return positions


@pytest.mark.parametrize("row", [ONE, BOTH, WITH, OTHER, PAIR, BESIDE, AFTER, ALL])
def test_the_reference_counts_positions_as_stock_code_does(host: HearingTwin, row: PromptParts) -> None:
    positions = host.positions([host.encode_part(part, None) for part in row])
    assert torch.equal(positions, stock_positions(host, host.inputs([row]))[:, 0])


@pytest.mark.parametrize("sound", [SHORT, 40, LONG])
def test_the_reference_orders_sound_as_the_stock_processor_does(host: HearingTwin, sound: int) -> None:
    stock = PROCESSORS[host.family]
    if not hasattr(stock, "replace_video_with_audio_token"):
        pytest.skip("before transformers 5.23 it is not a function of its own")
    video = VideoWithSound(8, 2, sound=sound)
    shape = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2), audio_bos_token="<", audio_eos_token=">", video_token="v",
        audio_token="a",
    )  # fmt: skip
    shape.get_chunked_index = lambda *args: stock.get_chunked_index(shape, *args)
    text = stock.replace_video_with_audio_token(
        shape, {"video_grid_thw": [host.thw(video)], "video_second_per_grid": [host.seconds_per_step]}, 0,
        {"num_audio_tokens": [host.sound_length(sound)]}, 0,
        position_id_per_seconds=host.tokens_per_second, seconds_per_chunk=2.0,
    )  # fmt: skip
    names = {AUDIO_START: "<", AUDIO_END: ">", VIDEO: "v", AUDIO: "a"}
    assert "".join(names[token] for token in host.encode(video).ids[1:-1]) == text


@pytest.mark.parametrize(
    "rows", [[WITH], [OTHER], [PAIR], [ALL], [WITH, OTHER], [PAIR, OTHER], [BESIDE], [AFTER], [BESIDE, ONE]]
)
@pytest.mark.parametrize("retention", [0.1, 0.5])
def test_sound_stays_and_positions_are_kept(host: HearingTwin, rows: list[PromptParts], retention: float) -> None:
    """In prompts with sound that is shorter or longer than its video, several of them, and sound beside videos."""
    output = check(host, rows, Norms(retention))
    videos = [part for row in rows for part in row if isinstance(part, Video)]
    counts = [math.prod(host.thw(video)) // 4 for video in videos]
    assert [video.tokens_before for video in output.session.report.videos] == counts
    longest = max(host.length(row, Norms(retention)) for row in rows)
    assert output.past_key_values.get_seq_length() == longest + NEW - 1


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_generate_with_sound(host: HearingTwin, way: str) -> None:
    _, options = WAYS[way]
    repeated = (*WITH, RandomWords(4, 40), RandomWords(4, 40))
    check(host, [repeated] if way == "prompt lookup" else [repeated, OTHER], Norms(), **options)


def test_beams_with_sound(host: HearingTwin) -> None:
    inputs = host.inputs([WITH, OTHER])
    output = generate(host, inputs, Norms(), num_beams=2, max_new_tokens=3)
    for row, sequence in zip((WITH, OTHER), output.sequences, strict=True):
        assert sequence[inputs["input_ids"].shape[1] :].tolist() == beams(host, row, Norms(), 2, 3)


def test_a_second_turn_after_sound(host: HearingTwin) -> None:
    question, rows = RandomWords(5, 31), [WITH, OTHER]
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True}
    with tangovlm.attach(host.model, Norms()):
        inputs = host.inputs(rows)
        first = host.model.generate(**inputs, **options)
        again = host.next_turn(inputs, first.sequences, question)
        second = host.model.generate(**again, past_key_values=first.past_key_values, **options)
    start = inputs["input_ids"].shape[1]
    for number, row in enumerate(rows):
        said = TokenIds(tuple(first.sequences[number, start:].tolist()))
        assert second.sequences[number, -NEW:].tolist() == host.reference((*row, said, question), Norms(), NEW)[0]


def test_full_retention_with_sound_is_bit_identical(host: HearingTwin) -> None:
    inputs = host.inputs([PAIR, OTHER])
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True}
    stock = host.model.generate(**inputs, **options, output_logits=True)
    ours = generate(host, inputs, tangovlm.Tango(retention=1.0))
    assert torch.equal(ours.sequences, stock.sequences)
    assert all(torch.equal(one, other) for one, other in zip(ours.logits, stock.logits, strict=True))


def test_sound_alone_is_untouched(host: HearingTwin) -> None:
    inputs = host.inputs([(RandomWords(3, 22), Sound(20), RandomWords(4, 23))])
    stock = host.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    output = generate(host, inputs, Norms())
    assert torch.equal(output.sequences, stock)
    assert output.session.report.videos == ()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pruning_inside_with_sound() -> None:
    host, pruner = Hearing(), tangovlm.method("fastv", retention=0.5)
    inputs = host.inputs([WITH, BESIDE[:1] + OTHER])
    output, start = generate(host, inputs, pruner), inputs["input_ids"].shape[1]
    wanted = [host.inside(row, pruner, NEW) for row in (WITH, BESIDE[:1] + OTHER)]
    assert output.sequences[:, start:].tolist() == [tokens for tokens, *_ in wanted]


def test_a_first_pass_over_a_video_in_pieces_is_refused() -> None:
    host, pruner = Hearing(), tangovlm.method("flexselect", retention=0.5, layer=1, frames_per_group=2)
    with pytest.raises(InputError, match=r"a video in pieces in the prompts of qwen2\.5-omni"):
        generate(host, host.inputs([WITH]), pruner)


def test_times_of_steps_are_those_of_the_call(host: HearingTwin) -> None:
    tokens, _ = recorded(host, 6)
    assert tokens.timestamps.tolist() == [step * host.seconds_per_step for step in range(3)]


def test_areas_of_frames_are_those_of_the_stock_processor(host: HearingTwin) -> None:
    """It gives them to its video processor with every call, whatever the checkpoint's files say."""
    stock = PROCESSORS[host.family]
    defaults = getattr(stock, "videos_kwargs", None)
    if defaults is None:
        defaults = stock.valid_processor_kwargs._defaults["videos_kwargs"]
    family = registry.family_for(host.model)(host.model)
    rule = family.size_rule
    assert {"shortest_edge": rule.least, "longest_edge": rule.most} == dict(defaults["size"])
    saved = {"size": {"shortest_edge": 64, "longest_edge": 4096}, "min_pixels": 64, "max_pixels": 4096}
    assert family.prompt.frame_size(saved, 1080, 1920) == family.prompt.frame_size({}, 1080, 1920)
    assert family.prompt.frame_size(saved | {"max_frame_pixels": 4096}, 1080, 1920) == (48, 80)


def test_a_question_must_not_contain_sound(host: HearingTwin) -> None:
    names = {number: token for token, number in host.specials.items()}
    tokenizer = SimpleNamespace(convert_ids_to_tokens=names.__getitem__)
    family = registry.family_for(host.model)(host.model)
    assert family.prompt.video_token(tokenizer) == names[VIDEO]
    assert family.prompt.reserved(tokenizer) == (names[IMAGE], names[AUDIO])


# --- what is refused ------------------------------------------------------------------------------------------------


def test_sound_in_some_videos_only_is_refused(host: HearingTwin) -> None:
    row = (*WITH, Video(4, 3), RandomWords(2, 2))
    with pytest.raises(InputError, match="use_audio_in_video is True, but a video has no sound in the prompt"):
        generate(host, host.inputs([row]), Norms())
    with pytest.raises(InputError, match="has no sound"), tangovlm.attach(host.model, Norms()):
        host.model(**host.inputs([row]))


def test_sound_without_its_argument_is_refused(host: HearingTwin) -> None:
    inputs = host.inputs([WITH])
    with pytest.raises(InputError, match="has sound in the prompt, but use_audio_in_video is not True"):
        generate(host, inputs | {"use_audio_in_video": False}, Norms())
    del inputs["use_audio_in_video"]
    with pytest.raises(InputError, match="has sound in the prompt, but use_audio_in_video is not True"):
        generate(host, inputs, Norms())


# --- the whole model ------------------------------------------------------------------------------------------------


def whole() -> Any:
    talker = {
        "audio_token_index": AUDIO, "vocab_size": 32, "embedding_size": 48, "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    dit = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8, "emb_dim": 8,
        "enc_emb_dim": 8, "enc_dim": 8, "enc_channels": [8, 8, 8, 8, 24], "enc_attention_channels": 4,
        "enc_se_channels": 4, "enc_res2net_scale": 2, "mel_dim": 8,
    }  # fmt: skip
    vocoder = {"mel_dim": 8, "upsample_initial_channel": 64}
    thinker = Qwen25OmniTwin().model
    config = Qwen2_5OmniConfig(
        thinker_config=thinker.config.to_dict(), talker_config=talker,
        token2wav_config={"dit_config": dit, "bigvgan_config": vocoder},
    )  # fmt: skip
    model = Qwen2_5OmniForConditionalGeneration(config)
    model.thinker.load_state_dict(thinker.state_dict())
    model.speaker_map = {"Chelsie": {"bos_token": 11}}
    return model.eval()


def test_the_whole_model_is_refused_and_its_thinker_attached() -> None:
    model, host = whole(), Qwen25OmniTwin()
    message = r"only a part of Qwen2_5OmniForConditionalGeneration can be attached: attach model\.thinker"
    with pytest.raises(ModelError, match=message), tangovlm.attach(model, Norms()):
        pass
    inputs = host.inputs([ONE])
    with tangovlm.attach(model.thinker, Norms()):
        said = model.generate(**inputs, generation_mode="text", thinker_max_new_tokens=NEW, thinker_do_sample=False)
        assert said[0, -NEW:].tolist() == host.reference(ONE, Norms(), NEW)[0]
        with pytest.raises(InputError, match="the talker needs a hidden state for every token of the prompt"):
            model.generate(**inputs, thinker_max_new_tokens=NEW, thinker_do_sample=False)


@pytest.mark.parametrize("named", ["Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"])
def test_the_thinker_of_a_published_checkpoint_is_loaded(named: str, tmp_path: Path) -> None:
    """Published weights have the names of an older layout, and config.json names the whole model."""
    host, model = Qwen25OmniTwin(), whole()
    write_checkpoint(host, tmp_path)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": [named]}))
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert {"thinker.model.embed_tokens.weight", "thinker.visual.merger.ln_q.weight"} <= set(weights.keys())
    assert registry.family_for(named).name == "qwen2.5-omni"
    llm = tangovlm.load(tmp_path)
    assert type(llm.model).__name__ == "Qwen2_5OmniThinkerForConditionalGeneration"
    wanted = host.model.state_dict()
    assert llm.model.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in llm.model.state_dict().items())
    assert next(tangovlm.load(tmp_path, weights=False).model.parameters()).is_meta
