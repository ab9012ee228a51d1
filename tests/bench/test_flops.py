"""The papers' formula against what PyTorch counts."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2Model

from tangovlm.bench import flops
from tangovlm.bench.tables import markdown
from tangovlm.errors import InputError


def host(kv_heads: int) -> Any:
    """A small language model on the meta device, as a host holds it."""
    config = Qwen2Config(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=kv_heads, vocab_size=16,
    )  # fmt: skip
    with torch.device("meta"):
        model = Qwen2Model(config)
    whole = SimpleNamespace(
        config=SimpleNamespace(text_config=config), model=SimpleNamespace(language_model=model), dtype=torch.float32
    )
    return SimpleNamespace(model=whole, device=torch.device("meta"))


@pytest.mark.parametrize("tokens", [1, 7, 50])
@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8])
def test_formula_is_what_pytorch_counts(tokens: int, kv_heads: int) -> None:
    grouped = host(kv_heads)
    assert flops.model_flops(grouped, tokens) == 2 * flops.formula_macs(grouped, tokens)


def test_rows() -> None:
    found = list(flops.run(size="tiny", frames=4, retentions=(1.0, 0.25), progress=lambda words: None))
    assert [(row["tokens"], row["retention"]) for row in found] == [(784, 1.0), (196, 0.25)]
    for row in found:
        assert row["ratio"] == row["counted_flops"] / row["formula_macs"] == 2
        assert row["tower_flops"] > row["projector_flops"] > 0
    whole, part = found
    assert (whole["saving"], whole["saving_with_tower"]) == (1, 1)
    assert part["saving"] == whole["counted_flops"] / part["counted_flops"] > 4
    assert 1 < part["saving_with_tower"] < part["saving"]
    assert (part["tower_flops"], part["projector_flops"]) == (whole["tower_flops"], whole["projector_flops"])
    assert len(markdown(found, flops.COLUMNS).splitlines()) == 4


def test_projector_by_hand() -> None:
    (row,) = flops.run(size="tiny", frames=2, retentions=(0.5,), progress=lambda words: None)
    config = flops.LlavaOnevision("tiny", torch.device("meta"), torch.float32).model.config
    wide, narrow = config.text_config.hidden_size, config.vision_config.hidden_size
    assert row["projector_flops"] == 2 * (2 * 27 * 27) * (narrow * wide + wide * wide)


def test_refusals() -> None:
    with pytest.raises(InputError, match="huge"):
        list(flops.run(size="huge", progress=lambda words: None))
    with pytest.raises(InputError, match="retention"):
        list(flops.run(size="tiny", retentions=(0.0,), progress=lambda words: None))
