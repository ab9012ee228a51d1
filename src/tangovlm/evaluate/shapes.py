"""Published shapes of the models that are benchmarked or planned for, and small ones."""

from dataclasses import dataclass
from typing import Any

SIZES = ("7b", "0.5b", "tiny")


@dataclass(frozen=True)
class Text:
    """Shape of a Qwen2 language model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False

    @property
    def parameters(self) -> int:
        """Number of weights, with embeddings and head, without norms and biases."""
        projections = self.hidden * (2 + 2 * self.kv_heads / self.heads)
        layer = (projections + 3 * self.intermediate) * self.hidden
        return int(self.layers * layer + (1 if self.tied else 2) * self.vocabulary * self.hidden)

    @property
    def cache_width(self) -> int:
        """Numbers that the cache holds per token."""
        return 2 * self.layers * self.hidden * self.kv_heads // self.heads

    def config(self) -> dict[str, Any]:
        """Arguments of the config class; without an end-of-sequence token."""
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": 0,
        }


@dataclass(frozen=True)
class Tower:
    """Shape of a vision transformer with patches of 14 pixels."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    mlp_matrices: int = 2

    @property
    def parameters(self) -> int:
        """Number of weights, without embeddings, norms and biases."""
        return self.layers * (4 * self.hidden**2 + self.mlp_matrices * self.hidden * self.intermediate)


# "tiny" has the grid of the 7B models and roughly the same share of operations in the vision encoder. There is no
# Qwen2.5-VL of the size "0.5b": it is the text model of that size with the vision encoder that all sizes share.
TEXTS = {
    "7b": Text(3584, 18944, 28, 28, 4, 152064),
    "0.5b": Text(896, 4864, 24, 14, 2, 151936, tied=True),
    "tiny": Text(512, 2048, 3, 8, 2, 512),
}
SIGLIP = {
    "7b": Tower(1152, 4304, 26, 16),
    "0.5b": Tower(1152, 4304, 26, 16),
    "tiny": Tower(192, 768, 2, 3),
}
QWEN = {
    "7b": Tower(1280, 3420, 32, 16, mlp_matrices=3),
    "0.5b": Tower(1280, 3420, 32, 16, mlp_matrices=3),
    "tiny": Tower(192, 512, 2, 3, mlp_matrices=3),
}
