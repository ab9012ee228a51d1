"""Qwen2-VL: the widths of its tower, which its configuration names unlike later models."""

from tangovlm.models.qwen2_vl import Qwen2VL
from tangovlm.selfcheck.twins.qwen2_vl import Qwen2VLTwin


def test_widths_are_those_of_the_tower() -> None:
    family = Qwen2VL(Qwen2VLTwin().model)
    assert family.widths == tuple(reversed(family.tower.blocks[0].mlp.fc1.weight.shape))
