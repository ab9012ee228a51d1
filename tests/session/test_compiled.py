"""Models compiled before or after they are attached give the right answers, or are refused in one line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import tangovlm
from tangovlm.errors import ModelError
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import PromptParts, RandomWords, Video
from tangovlm.selfcheck.twins.llava_onevision import LlavaOnevisionTwin

ROW: PromptParts = (RandomWords(3, 1), Video(4, 2), RandomWords(5, 3))
PRUNER = Norms(0.4)
REFUSED = "attach first.*compile"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Without compiled code of other tests, and without warnings of Dynamo."""
    torch.compiler.reset()
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    torch.compiler.reset()


def logits(model: Any, host: LlavaOnevisionTwin) -> torch.Tensor:
    with torch.no_grad():
        return model(**host.inputs([ROW])).logits[0, -1]


def compiled(part: Any) -> None:
    part.compile(backend="eager")


BEFORE: dict[str, Callable[[Any], Any]] = {
    "whole": compiled,
    "tower": lambda model: compiled(model.model.vision_tower),
}


@pytest.mark.parametrize("part", BEFORE)
def test_compiled_and_run_before(part: str) -> None:
    host = LlavaOnevisionTwin()
    plain = host.reference(ROW, None, 1)[1]
    BEFORE[part](host.model)
    torch.testing.assert_close(logits(host.model, host), plain, atol=1e-4, rtol=0)
    with tangovlm.attach(host.model, PRUNER) as session:
        found = logits(host.model, host)
    torch.testing.assert_close(found, host.reference(ROW, PRUNER, 1)[1], atol=1e-4, rtol=0)
    assert len(session.report.videos) == 1
    torch.testing.assert_close(logits(host.model, host), plain, atol=1e-4, rtol=0)


def test_signals_of_a_tower_that_was_compiled_before() -> None:
    host = LlavaOnevisionTwin()
    compiled(host.model.model.vision_tower)
    logits(host.model, host)
    refused = pytest.raises(ModelError, match=f"provided no saliency: .*{REFUSED}")
    with refused, tangovlm.attach(host.model, tangovlm.Tango(retention=0.4)):
        logits(host.model, host)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pruning_inside_layers_that_were_compiled_before() -> None:
    host = LlavaOnevisionTwin()
    for layer in host.model.get_decoder().layers:
        compiled(layer)
    logits(host.model, host)
    refused = pytest.raises(ModelError, match=REFUSED)
    with refused, tangovlm.attach(host.model, tangovlm.method("fastv", retention=0.5)):
        logits(host.model, host)


class Bypass:
    """Calls the forward of the class, as compiled code does that bypasses an instance and its hooks."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return type(self.module).forward(self.module, *args, **kwargs)


@pytest.mark.parametrize("part", ["text model", "base", "both"])
def test_hooks_that_do_not_run_are_noticed(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason: features with tags never become an answer."""
    host = LlavaOnevisionTwin()
    inner = host.model.model
    with tangovlm.attach(host.model, PRUNER):
        for name, module in (("text model", inner.language_model), ("base", inner)):
            if part in (name, "both"):
                monkeypatch.setattr(module, "_call_impl", Bypass(module), raising=False)
                monkeypatch.setattr(type(module), "__call__", lambda self, *a, **k: self._call_impl(*a, **k))
        with pytest.raises(ModelError, match=REFUSED), torch.no_grad():
            host.model(**host.inputs([ROW]))
        with pytest.raises(ModelError, match=REFUSED), torch.no_grad():
            host.model.generate(**host.inputs([ROW]), max_new_tokens=3, do_sample=False)


def test_a_forward_that_bypasses_its_hooks() -> None:
    """The forward of the class, which bypasses all patches of the instance, would prune nothing."""
    host = LlavaOnevisionTwin()
    with tangovlm.attach(host.model, PRUNER), torch.no_grad():
        inner = host.model.model
        del vars(inner)["forward"]
        handles, inner.language_model._forward_pre_hooks = inner.language_model._forward_pre_hooks, {}
        try:
            with pytest.raises(ModelError, match="a forward that began without hooks"):
                type(inner).forward(inner, **host.inputs([ROW]))
        finally:
            inner.language_model._forward_pre_hooks = handles
            inner.forward = None
