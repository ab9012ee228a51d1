"""What does not fit the model is refused before a clip is encoded."""

import pytest

from tangovlm.errors import ModelError, TangoError
from tangovlm.evaluate.clip_encoder import ClipEncoder
from tangovlm.evaluate.runner import answer_clips
from tangovlm.evaluate.runs import build_run, unpruned_run
from tangovlm.evaluate.tangoworld import ClipQuestions
from tangovlm.pipeline.load import VideoLLM


def test_a_retention_out_of_reach(llm: VideoLLM) -> None:
    encoder = ClipEncoder(llm)
    encoder.check([build_run("fastv", 0.75)])
    with pytest.raises(TangoError, match="out of reach"):
        encoder.check([build_run("fastv", 0.01)])


def test_a_saliency_that_the_model_does_not_provide(llm: VideoLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(llm.family.signals), "saliency_kinds", ("attn",))
    encoder = ClipEncoder(llm)
    encoder.check([build_run("tango", 0.1, saliency="attn"), build_run("uniform", 0.1, saliency="p-attn")])
    with pytest.raises(ModelError, match=r"saliency 'p-attn', which the family [\w-]+ does not"):
        encoder.check([build_run("tango", 0.1, saliency="p-attn")])


def test_a_signal_that_a_method_can_do_without(
    llm: VideoLLM, clip: ClipQuestions, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build_run("unicomp", 0.1)
    assert ClipEncoder(llm).readable(run) == {"keys", "frame_features"}
    monkeypatch.setattr(type(llm.family.signals), "provides", frozenset({"frame_features"}))
    assert ClipEncoder(llm).readable(run) == {"frame_features"}
    assert ClipEncoder(llm).readable(unpruned_run()) == frozenset()
    (answers,) = answer_clips(llm, {0: run}, [clip], (), lambda _: None)
    assert len(answers) == len(clip.questions)
