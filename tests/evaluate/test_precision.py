"""Float32 distances must not change what is kept of the benchmark's clips: all in float64 is the judge."""

from dataclasses import replace

import pytest
import torch

from tangovlm import Tango, VideoTokens
from tangovlm.evaluate.clip_encoder import ClipEncoder
from tangovlm.evaluate.tangoworld import OFFICIAL, load_questions, render_clip
from tangovlm.pipeline.load import load

RETENTIONS = (0.02, 0.1, 0.5)


@pytest.fixture(scope="module")
def clips() -> list[VideoTokens]:
    """Two clips of each length."""
    encoder = ClipEncoder(load())
    needs = {"p-attn": frozenset({"saliency", "timestamps"})}
    tokens = []
    with torch.no_grad():
        for length in OFFICIAL.lengths:
            for case in load_questions(lengths=[length])[:2]:
                seen = render_clip(case.clip(), length)
                tokens.append(encoder.encode(encoder.pixels(seen.pixels), seen.seconds, needs).tokens["p-attn"])
    return tokens


@pytest.mark.parametrize("exact", [True, False])
def test_the_same_tokens_are_kept(clips: list[VideoTokens], exact: bool) -> None:
    assert {tokens.features.dtype for tokens in clips} == {torch.float32}
    for tokens in clips:
        assert tokens.saliency is not None
        wide = replace(tokens, features=tokens.features.double(), saliency=tokens.saliency.double())
        for retention in RETENTIONS:
            prune = Tango(retention=retention) if exact else Tango.release(retention=retention)
            found, judge = prune(tokens), prune(wide)
            assert torch.equal(found.indices, judge.indices)
            assert torch.equal(found.sources, judge.sources)
            assert found.segments == judge.segments
