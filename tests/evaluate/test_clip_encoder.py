"""What does not fit the model is refused before a clip is encoded."""

import pytest

from tangovlm.errors import ModelError, TangoError
from tangovlm.evaluate.clip_encoder import ClipEncoder
from tangovlm.evaluate.runs import build_run
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
