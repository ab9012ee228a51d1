"""Answers through `attach` and the stock `generate`, one question at a time; works for every method."""

from typing import Any

import torch
from torch import Tensor

from tangovlm.models.common.family import Family
from tangovlm.models.common.transformers_compat import Arg, cache_in
from tangovlm.pipeline.load import VideoLLM
from tangovlm.session.attach import attach_family
from tangovlm.session.memo import Memo
from tangovlm.tiny.evaluate import MAX_NEW_TOKENS, log_likelihood
from tangovlm.tiny.synthetic.questions import Question

from .batched import Reply
from .runs import Run


@torch.no_grad()
def answer_question(
    llm: VideoLLM,
    family: Family,
    run: Run,
    pixels: Tensor,
    seconds: Tensor,
    question: Question,
    memo: Memo | None = None,
) -> tuple[Reply, int]:
    """The reply to one question, and the number of visual tokens that entered the language model.

    Parameters
    ----------
    memo: of the same run and the same pixels; a video that is in it is not encoded again.
    """
    inputs = llm.family.prompt.inputs(llm.tokenizer, llm.template, pixels, question.text, seconds)
    inputs = {name: tensor.to(llm.family.device) for name, tensor in inputs.items()}
    choices = [llm.tokenizer(choice).input_ids for choice in question.choices]
    # A family that fixes the positions refuses the run's setting.
    positions = None if family.keeps_positions else run.positions
    options: dict[str, Any] = {"timestamps": seconds, "positions": positions, "encode": run.encode or "all"}
    with attach_family(family, run.pruner, **options, memo=memo) as session:
        output = llm.model.generate(
            **inputs,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        kept = session.report.tokens_after
        first, cache = output.logits[0], None
        if any(len(ids) > 1 for ids in choices):
            cache = cache_in(llm.model(**inputs, **{Arg.USE_CACHE: True}))
        likelihoods = tuple(log_likelihood(llm, inputs, first, cache, ids) for ids in choices)
    generated = output.sequences[0, inputs[Arg.IDS].shape[1] :]
    answer = llm.tokenizer.decode(generated, skip_special_tokens=True).strip()
    return Reply(answer, likelihoods), kept
