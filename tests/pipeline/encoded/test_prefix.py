"""How many prompts are answered in one batch from a shared beginning."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, LinearAttentionLayer

from tangovlm.models.common.layout import Grid
from tangovlm.pipeline.encoded.prefix import Prefix
from tangovlm.pipeline.settings import Support

HELD, CHANNELS, NEW = 10, 4, 6
# Float32 keys and values of one token, for two heads.
OF_TOKEN = 2 * 2 * CHANNELS * 4
# Float32 states of the convolution and of the recurrence.
OF_PROMPT = (8 * 3 + 2 * 64 * 64) * 4


def prefix(recurrent: bool) -> Prefix:
    attending = DynamicLayer()
    attending.update(torch.zeros(1, 2, HELD, CHANNELS), torch.zeros(1, 2, HELD, CHANNELS))
    cache = DynamicCache()
    cache.layers = [attending]
    if recurrent:
        layer = LinearAttentionLayer()
        layer.conv_states[0], layer.recurrent_states[0] = torch.zeros(1, 8, 3), torch.zeros(1, 2, 64, 64)
        cache.layers = [layer, attending]
    family: Any = SimpleNamespace()
    return Prefix(family, torch.zeros(1, 20, dtype=torch.long), cache, Grid(1, 1, 1), None, None)


@pytest.mark.parametrize("recurrent", [False, True])
def test_what_a_batch_holds_counts_keys_values_and_states(recurrent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [torch.zeros(1, 23, dtype=torch.long)] * 9
    of_prompt = (HELD + 3 + NEW) * OF_TOKEN + (OF_PROMPT if recurrent else 0)
    for rows in (1, 4, 8):
        monkeypatch.setattr("tangovlm.pipeline.encoded.prefix._BATCH_BYTES", rows * of_prompt)
        assert prefix(recurrent).at_once(prompts, NEW, Support(continues=True, batches=True, pads=True)) == rows
