"""Which settings of a generation config a continued prompt and a batch support.

With any other, prompts are read whole and one by one, so that the answer is that of a call with one question.
"""

from dataclasses import dataclass
from typing import Any

from ..models.common.transformers_compat import Arg

_OVERRIDDEN = {"do_sample", "num_beams", "temperature", "top_p", "top_k", "max_length", "max_new_tokens"}
_OF_SAMPLING_OR_BEAMS = {"min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff", "length_penalty"}
_OF_SAMPLING_OR_BEAMS |= {"early_stopping", "diversity_penalty"}
_OF_OUTPUTS = {"return_dict_in_generate", "output_attentions", Arg.HIDDEN_STATES, "output_scores", "output_logits"}
_OF_TOKENS = {"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id"}
_OF_SCORES = {"suppress_tokens", "renormalize_logits", "remove_invalid_values"}
# They count new tokens, or read which tokens a prompt has: padding repeats one of the prompt.
_OF_NEW_TOKENS = {"min_new_tokens", "begin_suppress_tokens", "forced_eos_token_id", "exponential_decay_length_penalty"}
_PADDED = {"transformers_version", "compile_config", "disable_compile", "repetition_penalty"}
_PADDED |= _OVERRIDDEN | _OF_SAMPLING_OR_BEAMS | _OF_OUTPUTS | _OF_TOKENS | _OF_SCORES | _OF_NEW_TOKENS
# They read the order or the number of the tokens of a prompt.
_OF_ONE_LENGTH = _PADDED | {"no_repeat_ngram_size", "bad_words_ids", "sequence_bias", "min_length"}
# Rows of a batch end at their end-of-text tokens only.
_CONTINUED = _OF_ONE_LENGTH | {"stop_strings"}


@dataclass(frozen=True)
class Support:
    """What a generation config allows.

    Parameters
    ----------
    continues: a prompt may continue from a cache.
    batches: several such prompts of one length may be answered together.
    pads: several of different lengths too.
    """

    continues: bool
    batches: bool
    pads: bool

    @classmethod
    def of(cls, config: Any) -> "Support":
        """What a `GenerationConfig` allows.

        Examples
        --------
        >>> from transformers import GenerationConfig
        >>> Support.of(GenerationConfig(no_repeat_ngram_size=3))
        Support(continues=True, batches=True, pads=False)
        """
        values = {name: value for name, value in vars(config).items() if not name.startswith("_")}
        caches = values.pop(Arg.USE_CACHE, None)
        # Zero and False turn a setting off.
        names = {name for name, value in values.items() if name not in _PADDED and value not in (None, 0, "", [], {})}
        continues = caches is not False and names <= _CONTINUED
        return cls(continues, continues and names <= _OF_ONE_LENGTH, continues and not names)


def end_tokens(config: Any) -> list[int]:
    """The token ids that end an answer, which a config has as a number, a list, a tensor, or not at all."""
    ends = config.eos_token_id
    if ends is None:
        return []
    ends = ends.tolist() if hasattr(ends, "tolist") else ends
    return list(ends) if isinstance(ends, (list, tuple, set)) else [int(ends)]
