"""Signals are those of the calls that the observer makes, whatever other threads do with the model."""

import threading

import torch

from tangovlm.models.common.transformers_compat import Arg
from tangovlm.registry import family_for
from tests.support.tiny_models import make_model


def test_calls_of_other_threads_do_not_count() -> None:
    model = make_model()
    family = family_for(model)(model, saliency="attn")
    needs = frozenset({"saliency", "keys", "frame_features"})
    pixels, others = torch.randn(2, 1, 3, 3, 56, 56, generator=torch.Generator().manual_seed(0))

    def encode(which: torch.Tensor) -> None:
        with torch.no_grad():
            model.model.get_video_features(which, **{Arg.AS_DICT: True})

    with family.signals.observe(needs) as alone:
        encode(pixels)
    with family.signals.observe(needs) as observed:
        thread = threading.Thread(target=encode, args=(others,))
        thread.start()
        thread.join()
        encode(pixels)
    for name in needs:
        assert torch.equal(getattr(alone, name), getattr(observed, name))
