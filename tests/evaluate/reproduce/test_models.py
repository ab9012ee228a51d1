"""Shapes of checkpoints."""

import json
from pathlib import Path

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.reproduce import models


@pytest.mark.parametrize(
    ("config", "tokens", "layers"),
    [
        (
            {
                "text_config": {
                    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4,
                    "num_key_value_heads": 2, "vocab_size": 100,
                },
                "vision_config": {
                    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
                    "image_size": 384, "patch_size": 14,
                },
            },
            32 * 196,
            6,
        ),
        (
            {
                "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 28, "num_attention_heads": 4,
                "num_key_value_heads": 2, "vocab_size": 100, "mm_spatial_pool_mode": "average",
            },
            32 * 169,
            28,
        ),
    ],
)  # fmt: skip
def test_shapes_of_checkpoints(config: dict[str, object], tokens: int, layers: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = models.shape_of(str(tmp_path))
    assert (shape.tokens_before(32), shape.text.layers) == (tokens, layers)


def test_models_that_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not known here"):
        models.shape_of("someone/else-7b")
    with pytest.raises(InputError, match=r"has no config\.json"):
        models.shape_of(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="does not describe a model"):
        models.shape_of(str(tmp_path))
