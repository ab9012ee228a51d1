"""A second turn of a conversation on one cache, with an image or a video of its own."""

from __future__ import annotations

from typing import Any

import torch

from tangovlm.registry import family_for
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.parts import Image, PromptParts, RandomWords, TokenIds, Video
from tests.session.test_generate_families import NEW


@torch.no_grad()
def second_turn(host: Twin, first: PromptParts, second: PromptParts) -> tuple[PromptParts, list[int]]:
    """The whole conversation as one prompt, and the greedy answer to its second turn.

    The call of the second turn has all ids, but pixels of the second turn only. Models with M-RoPE count positions from
    the beginning, for which they need the grids of both turns.
    """
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True}
    inputs = host.inputs([first])
    answer = host.model.generate(**inputs, **options)
    said = TokenIds(tuple(answer.sequences[0, inputs["input_ids"].shape[1] :].tolist()))
    row = (*first, said, *second)
    whole = host.inputs([row])
    new = host.pixels([part for part in second if isinstance(part, (Video, Image))])
    earlier = set(inputs) - set(host.inputs([(RandomWords(1, 0),)]))
    if family_for(host.model).keeps_positions:
        earlier = {name for name in earlier if not name.endswith("grid_thw")}
    inputs = {name: value for name, value in whole.items() if name not in earlier} | new
    start = whole["input_ids"].shape[1]
    output = host.model.generate(**inputs, past_key_values=answer.past_key_values, **options)
    return row, output.sequences[0, start:].tolist()
