"""`attach` restores the model, refuses what it does not support, and reports what it does."""

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from transformers.video_utils import VideoMetadata

import tangovlm
from tangovlm import registry
from tangovlm.errors import InputError, MethodError, ModelError
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.tokens import Selection, VideoTokens
from tests.support.tiny_models import (
    embed_row,
    make_model,
    make_videos,
    pad_left,
    placeholders,
    reference_greedy,
    select,
    state_of,
    words,
)

FRAMES = 3
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}


@pytest.fixture(scope="module")
def model() -> Any:
    made = make_model()
    # On first use, transformers itself installs hooks for hidden states.
    made.generate(**inputs_for(made), **GREEDY)
    return made


def inputs_for(model: Any, videos: int = 1, frames: int = FRAMES) -> dict[str, Any]:
    row = words(3, 1)
    for number in range(videos):
        row += [*placeholders(model, frames), *words(4, 2 + number)]
    return pad_left([row]) | {"pixel_values_videos": make_videos(model, videos, frames)}


@dataclass(frozen=True)
class Recorder:
    """A method that keeps the first tokens and records its inputs."""

    seen: list[VideoTokens]
    retention: float = 0.5
    needs: frozenset[str] = frozenset({"saliency", "timestamps"})
    error: Exception | None = None
    sink_tokens: None = None
    name: ClassVar[str] = "recorder"

    def __call__(self, tokens: VideoTokens) -> Selection:
        if self.error is not None:
            raise self.error
        self.seen.append(tokens)
        kept = tangovlm.budget.count(self.retention, tokens.count)
        sources = torch.full((tokens.count,), -1)
        sources[:kept] = torch.arange(kept)
        features = tokens.features.flatten(0, 2)[:kept]
        return Selection(torch.arange(kept), features, sources.view(tokens.features.shape[:3]), (tokens.frames,))


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def test_full_retention_is_bit_identical_and_adds_no_work(model: Any) -> None:
    inputs = inputs_for(model, videos=2)
    recorder = Recorder([], retention=1.0)
    keep = {"return_dict_in_generate": True, "output_logits": True}
    with torch.no_grad():
        plain, logits = model.generate(**inputs, **GREEDY, **keep), model(**inputs).logits
        norm, hooks = model.model.vision_tower.post_layernorm, []
        count = norm.register_forward_hook(lambda module, *_: hooks.append(len(module._forward_hooks)))
        with tangovlm.attach(model, recorder, record=True) as session:
            attached, attached_logits = model.generate(**inputs, **GREEDY, **keep), model(**inputs).logits
        count.remove()
        assert set(hooks) == {len(norm._forward_hooks) + 1}
    assert torch.equal(plain.sequences, attached.sequences)
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, attached.logits, strict=True))
    assert torch.equal(logits, attached_logits)
    assert recorder.seen == []
    report = session.report
    assert report.tokens_before == report.tokens_after == 4 * FRAMES * 16
    assert report.timings_ms["prune"] == 0.0
    assert session.videos[0].saliency is None
    assert session.videos[0].selection.indices.numel() == FRAMES * 16


def test_full_retention_checks_nothing(model: Any) -> None:
    inputs = inputs_for(model)
    inputs["pixel_values_videos"][0, 1, 0, 3, 3] = float("nan")
    with torch.no_grad(), tangovlm.attach(model, Norms(1.0)):
        assert bool(model(**inputs).logits.isnan().any())


def test_labels_are_accepted_at_full_retention(model: Any) -> None:
    inputs = inputs_for(model)
    with torch.no_grad():
        plain = model(**inputs, labels=inputs["input_ids"]).loss
        with tangovlm.attach(model, Norms(1.0)):
            assert torch.equal(model(**inputs, labels=inputs["input_ids"]).loss, plain)


def test_text_without_video_is_untouched(model: Any) -> None:
    inputs = pad_left([words(5, 1), words(9, 2)])
    plain = model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_logits=True)
    with tangovlm.attach(model, Norms()) as session:
        attached = model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_logits=True)
    assert torch.equal(plain.sequences, attached.sequences)
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, attached.logits, strict=True))
    assert session.report.videos == ()


@pytest.mark.parametrize("saliency", ["p-attn", "attn"])
def test_model_is_restored(model: Any, saliency: str) -> None:
    before = state_of(model)
    with tangovlm.attach(model, Recorder([]), saliency=saliency):
        model.generate(**inputs_for(model), **GREEDY)
        assert state_of(model) != before
    assert state_of(model) == before


def test_model_is_restored_after_an_error_of_the_method(model: Any) -> None:
    before = state_of(model)
    with pytest.raises(ZeroDivisionError), tangovlm.attach(model, Recorder([], error=ZeroDivisionError())):
        model.generate(**inputs_for(model), **GREEDY)
    assert state_of(model) == before
    plain = model.generate(**inputs_for(model), **GREEDY)
    with tangovlm.attach(model, Norms()) as session:
        model.generate(**inputs_for(model), **GREEDY)
    assert torch.equal(model.generate(**inputs_for(model), **GREEDY), plain)
    assert len(session.report.videos) == 1


def test_a_session_continues_after_an_error(model: Any) -> None:
    inputs = inputs_for(model)
    with tangovlm.attach(model, Norms()) as session:
        with pytest.raises(InputError, match="labels"):
            model(**inputs, labels=inputs["input_ids"])
        with pytest.raises(InputError, match="47 video placeholders but its videos have 49 features"):
            model.generate(**inputs | {"input_ids": inputs["input_ids"][:, 5:]}, **GREEDY)
        got = model.generate(**inputs, **GREEDY)
    with tangovlm.attach(model, Norms()):
        assert torch.equal(got, model.generate(**inputs, **GREEDY))
    assert session.report.timings_ms["prefill"] > 0


def test_instance_attributes_of_other_libraries_are_restored(model: Any) -> None:
    original = model.generate
    model.generate = lambda *args, **kwargs: original(*args, **kwargs)
    mine = vars(model)["generate"]
    try:
        with tangovlm.attach(model, Norms()):
            model.generate(**inputs_for(model), **GREEDY)
        assert vars(model)["generate"] is mine
    finally:
        del model.generate


def test_nested_attach_is_refused_and_harmless(model: Any) -> None:
    before = state_of(model)
    with tangovlm.attach(model, Norms()):
        inside = state_of(model)
        with pytest.raises(ModelError, match="already attached"), tangovlm.attach(model, Norms()):
            pass
        assert state_of(model) == inside
    assert state_of(model) == before


def test_attaching_again_and_again(model: Any) -> None:
    inputs = inputs_for(model)
    outputs = []
    for _ in range(3):
        with tangovlm.attach(model, Norms()):
            outputs.append(model.generate(**inputs, **GREEDY))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_two_models_at_once() -> None:
    models = [make_model(seed=1), make_model(seed=2, side=5)]
    pruners = [Norms(0.2), Norms(0.6)]
    with tangovlm.attach(models[0], pruners[0]) as first, tangovlm.attach(models[1], pruners[1]) as second:
        outputs = [model.generate(**inputs_for(model), **GREEDY) for model in models]
        again = models[0].generate(**inputs_for(models[0]), **GREEDY)
    assert torch.equal(outputs[0], again)
    assert (len(first.report.videos), len(second.report.videos)) == (2, 1)
    for model, pruner, output in zip(models, pruners, outputs, strict=True):
        inputs = inputs_for(model)
        row = inputs["input_ids"][0].tolist()
        selections = [select(model, pruner, inputs["pixel_values_videos"][0])]
        assert output[0, len(row) :].tolist() == reference_greedy(model, embed_row(model, row, selections, None), 4)[0]


def test_order_of_videos_in_a_batch_does_not_matter(model: Any) -> None:
    pixels = make_videos(model, 2, FRAMES)
    row = inputs_for(model)["input_ids"][0].tolist()
    with tangovlm.attach(model, Norms()):
        one = model.generate(**pad_left([row, row]), pixel_values_videos=pixels, **GREEDY)
        other = model.generate(**pad_left([row, row]), pixel_values_videos=pixels.flip(0), **GREEDY)
    assert torch.equal(one, other.flip(0))


def test_pixels_are_not_changed(model: Any) -> None:
    inputs = inputs_for(model)
    copies = {name: value.clone() for name, value in inputs.items()}
    with tangovlm.attach(model, Norms()):
        model.generate(**inputs, **GREEDY)
    assert all(torch.equal(inputs[name], copies[name]) for name in inputs)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_labels_are_refused(model: Any) -> None:
    inputs = inputs_for(model)
    with tangovlm.attach(model, Norms()), pytest.raises(InputError, match="labels"):
        model(**inputs, labels=inputs["input_ids"])


def test_prepared_masks_are_refused(model: Any) -> None:
    inputs = inputs_for(model)
    length = inputs["input_ids"].shape[1]
    inputs["attention_mask"] = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    with tangovlm.attach(model, Norms()), pytest.raises(InputError, match="2-D attention_mask"):
        model(**inputs)


def test_unsupported_architecture_lists_the_supported() -> None:
    with pytest.raises(ModelError, match="unsupported architecture Linear.*LlavaOnevisionForConditionalGeneration"):
        tangovlm.attach(torch.nn.Linear(1, 1), Norms()).__enter__()
    assert "LlavaOnevisionForConditionalGeneration" in registry.families()


@pytest.mark.parametrize("pruner", ["tango", tangovlm.Tango, print])
def test_an_invalid_method(model: Any, pruner: Any) -> None:
    with pytest.raises(MethodError, match="attach needs a method"), tangovlm.attach(model, pruner):
        pass


def test_unknown_saliency(model: Any) -> None:
    with pytest.raises(InputError, match="'p-attn' or 'attn'"):
        tangovlm.attach(model, Norms(), saliency="grad").__enter__()


def test_missing_head_is_found_before_anything_is_encoded() -> None:
    headless = make_model(head=False)
    with pytest.raises(ModelError, match=r"head_weights=FILE.*saliency='attn'"):
        tangovlm.attach(headless, Recorder([])).__enter__()
    with tangovlm.attach(headless, Recorder([]), saliency="attn"):
        headless.generate(**inputs_for(headless), **GREEDY)
    for needless in (Norms(), Recorder([], retention=1.0)):
        with tangovlm.attach(headless, needless):
            headless.generate(**inputs_for(headless), **GREEDY)


@pytest.mark.parametrize("place", ["pixels", "text", "image"])
def test_genuine_nan_is_never_dropped(place: str) -> None:
    model = make_model()
    inputs = inputs_for(model)
    if place == "pixels":
        inputs["pixel_values_videos"][0, 1, 0, 3, 3] = float("nan")
    elif place == "text":
        model.get_input_embeddings().weight.data[int(inputs["input_ids"][0, 0])] = float("nan")
    else:
        model.model.image_newline.data[0] = float("nan")
    with tangovlm.attach(model, Norms()), pytest.raises(InputError, match="NaN"):
        model.generate(**inputs, **GREEDY)


def test_nan_made_by_a_method_is_found(model: Any) -> None:
    @dataclass(frozen=True)
    class Broken(Norms):
        def __call__(self, tokens: VideoTokens) -> Selection:
            selection = super().__call__(tokens)
            selection.features[0] = float("nan")
            return selection

    with tangovlm.attach(model, Broken()), pytest.raises(InputError, match="NaN"):
        model.generate(**inputs_for(model), **GREEDY)


# --- timestamps -------------------------------------------------------------------------------------------------------


def metadata(indices: list[int], fps: float | None = 2.0) -> VideoMetadata:
    return VideoMetadata(total_num_frames=100, fps=fps, frames_indices=indices)


@pytest.mark.parametrize("call", ["generate", "forward"])
@pytest.mark.parametrize("nested", [True, False])
def test_timestamps_from_video_metadata(model: Any, call: str, nested: bool) -> None:
    recorder = Recorder([])
    given: Any = [metadata([0, 1, 4]), dict(metadata([2, 3, 9]))]
    given = [[item] for item in given] if nested else given
    with torch.no_grad(), tangovlm.attach(model, recorder) as session:
        inputs = inputs_for(model, videos=2) | {"video_metadata": given}
        _ = model.generate(**inputs, **GREEDY) if call == "generate" else model(**inputs)
    assert [tokens.timestamps.tolist() for tokens in recorder.seen] == [[0.0, 0.5, 2.0], [1.0, 1.5, 4.5]]
    assert not any("one second apart" in note for note in session.report.notes)


def test_metadata_applies_to_one_call_only(model: Any) -> None:
    recorder = Recorder([])
    with torch.no_grad(), tangovlm.attach(model, recorder):
        model(**inputs_for(model), video_metadata=[metadata([0, 1, 4])])
        model(**inputs_for(model))
        model.generate(**inputs_for(model), video_metadata=[metadata([0, 1, 4])], **GREEDY)
        model.generate(**inputs_for(model), **GREEDY)
    assert [tokens.timestamps is None for tokens in recorder.seen] == [False, True, False, True]


@pytest.mark.parametrize(
    ("timestamps", "wanted"),
    [
        (torch.tensor([1.0, 2.5, 7.0]), [[1.0, 2.5, 7.0], [1.0, 2.5, 7.0]]),
        ([1.0, 2.5, 7.0], [[1.0, 2.5, 7.0], [1.0, 2.5, 7.0]]),
        ([torch.tensor([0.0, 1.0, 2.0]), torch.tensor([3.0, 4.0, 6.0])], [[0.0, 1.0, 2.0], [3.0, 4.0, 6.0]]),
    ],
)
def test_timestamps_of_attach_take_precedence(model: Any, timestamps: Any, wanted: list[list[float]]) -> None:
    recorder = Recorder([])
    with tangovlm.attach(model, recorder, timestamps=timestamps):
        model.generate(**inputs_for(model, videos=2), video_metadata=[metadata([0, 1, 4])] * 2, **GREEDY)
    assert [tokens.timestamps.tolist() for tokens in recorder.seen] == wanted


@pytest.mark.parametrize(
    ("timestamps", "message"),
    [
        (torch.tensor([1.0, 2.0]), "3 frames but 2 timestamps"),
        ([torch.arange(3.0)] * 2, "timestamps for 2 videos, but 1"),
        (torch.tensor([1.0, 1.0, 2.0]), "strictly"),
        ("now", "timestamps must be"),
    ],
)
def test_timestamps_that_do_not_fit(model: Any, timestamps: Any, message: str) -> None:
    with pytest.raises(InputError, match=message), tangovlm.attach(model, Recorder([]), timestamps=timestamps):
        model.generate(**inputs_for(model), **GREEDY)


def test_missing_times_and_unknown_sinks_are_reported_and_warned_about_once(model: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with tangovlm.attach(model, Recorder([])) as session:
            for _ in range(2):
                model.generate(**inputs_for(model), video_metadata=[metadata([0, 1, 2], fps=None)], **GREEDY)
    notes = session.report.notes
    assert [note.split(":")[0] for note in notes] == [
        "no timestamps given",
        "no sink positions are known for a grid of 4 x 4",
    ]
    assert [str(warning.message) for warning in caught if warning.category is UserWarning] == list(notes)
    assert session.report.videos[0].notes == notes


@pytest.mark.parametrize(("name", "said"), [("tango", True), ("topk", False)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_only_a_method_that_masks_sinks_reports_unknown_ones(model: Any, name: str, said: bool) -> None:
    with tangovlm.attach(model, tangovlm.method(name, retention=0.5)) as session:
        model.generate(**inputs_for(model), **GREEDY)
    assert any("no sink positions" in note for note in session.report.notes) == said


# --- report and record ------------------------------------------------------------------------------------------------


def test_report_of_a_conversation(model: Any) -> None:
    with tangovlm.attach(model, Norms(0.25)) as session:
        assert session.report.videos == ()
        model.generate(**inputs_for(model), **GREEDY)
        first = session.report
        model.generate(**inputs_for(model, videos=2), **GREEDY)
    assert [len(first.videos), len(session.report.videos)] == [1, 3]
    assert (session.report.tokens_before, session.report.tokens_after) == (3 * 48, 3 * 12)
    video = first.videos[0]
    assert (video.method, video.retention, video.segments) == ("norms", 0.25, (FRAMES,))
    assert set(first.timings_ms) == {"encode", "prune", "prefill", "decode_tokens"}
    assert all(value > 0 for value in first.timings_ms.values())
    assert all(session.report.timings_ms[stage] > first.timings_ms[stage] for stage in first.timings_ms)
    total = sum(video.timings_ms["prune"] for video in session.report.videos)
    assert total == pytest.approx(session.report.timings_ms["prune"])


def test_times_of_a_plain_forward(model: Any) -> None:
    with torch.no_grad(), tangovlm.attach(model, Norms()) as session:
        cache = model(**inputs_for(model), use_cache=True).past_key_values
        spent = session.report.timings_ms
        model(input_ids=torch.tensor([[20]]), past_key_values=cache)
    assert all(spent[stage] > 0 for stage in ("encode", "prune", "prefill"))
    assert spent["decode_tokens"] == 0
    assert session.report.timings_ms == spent


def test_record(model: Any) -> None:
    with tangovlm.attach(model, Recorder([]), record=True) as session:
        model.generate(**inputs_for(model, videos=2), **GREEDY)
    assert len(session.videos) == 2
    for record, report in zip(session.videos, session.report.videos, strict=True):
        assert record.report == report
        assert record.saliency.shape == (FRAMES, 4, 4)
        assert record.selection.indices.numel() == report.tokens_after


def test_nothing_is_recorded_by_default(model: Any) -> None:
    with tangovlm.attach(model, Recorder([])) as session:
        model.generate(**inputs_for(model), **GREEDY)
    assert session.videos == []


# --- Tango ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saliency", ["p-attn", "attn"])
@pytest.mark.parametrize("retention", [0.1, 0.5])
def test_tango_end_to_end(saliency: str, retention: float) -> None:
    """Saliency from the head's or the eager model's own attention weights, tokens from the cache-free reference."""
    model = make_model(attention="eager")
    inputs = inputs_for(model, frames=6)
    video = inputs["pixel_values_videos"][0]
    times = torch.tensor([0.0, 0.4, 1.0, 3.0, 3.5, 9.0], dtype=torch.float64)
    with torch.no_grad():
        output = model.model.vision_tower(video, output_attentions=True)
        head, hidden = model.model.vision_tower.head, output.last_hidden_state
        probe = head.probe.expand(len(video), -1, -1)
        weights = head.attention(probe, hidden, hidden, need_weights=True)[1][:, 0]
        weights = output.attentions[-1].mean(dim=(1, 2)) if saliency == "attn" else weights
    pooled = weights.view(-1, 4, 2, 4, 2).mean(dim=(2, 4))
    pruner = tangovlm.Tango(retention=retention)
    selection = select(model, pruner, video, {"saliency": pooled, "timestamps": times})
    row = inputs["input_ids"][0].tolist()
    wanted, first = reference_greedy(model, embed_row(model, row, [selection], None), 4)
    with tangovlm.attach(model, pruner, timestamps=times, saliency=saliency, record=True) as session:
        got = model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_logits=True)
    assert torch.equal(session.videos[0].selection.indices, selection[0].indices)
    assert got.sequences[0, len(row) :].tolist() == wanted
    torch.testing.assert_close(got.logits[0][0], first, atol=1e-4, rtol=0)
    assert session.report.tokens_after == tangovlm.budget.count(retention, 96)
