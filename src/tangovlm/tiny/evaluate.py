"""Evaluate the embedded model on held-out clips of 16 moments: `python -m tangovlm.tiny.evaluate`.

Only stock calls are used, one question at a time. Answers are generated greedily over the whole vocabulary and compared
as text; choices are ranked by their likelihood. With a retention below one, both run on the pruned video. To compare
methods, use the benchmark `tangovlm eval`.
"""

import argparse
import copy
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tangovlm.errors import TangoError
from tangovlm.methods import build
from tangovlm.models.common.transformers_compat import Arg, cache_for, cache_in
from tangovlm.pipeline.generation import model_inputs
from tangovlm.pipeline.load import VideoLLM, load
from tangovlm.session.attach import attach_family
from tangovlm.tokens import Pruner
from tangovlm.video import Frames

from .clip import decoded_frames
from .loop import Progress
from .synthetic.questions import KINDS, Question, questions
from .synthetic.sampling import sample_clip

QUESTIONS = 720
_SEED = 13
MAX_NEW_TOKENS = 8


def held_out_questions(total: int, seed: int = _SEED) -> Iterator[tuple[Frames, list[Question]]]:
    """Yield clips that are not in the training data with questions, `total` in all, evenly over the kinds.

    A clip has at most one question of a kind. If `total` is not a multiple of the number of kinds, the first kinds have
    one question more.
    """
    remaining = {kind: total // len(KINDS) + (i < total % len(KINDS)) for i, kind in enumerate(KINDS)}
    index = 0
    while any(remaining.values()):
        rng = np.random.default_rng([seed, index])
        index += 1
        clip = sample_clip(rng)
        frames, visible = decoded_frames(clip)
        offered = questions(clip, rng, visible)
        first = {q.kind: q for q in (offered[i] for i in rng.permutation(len(offered)))}
        asked = [q for kind, q in sorted(first.items()) if remaining[kind]]
        for question in asked:
            remaining[question.kind] -= 1
        if asked:
            yield frames, asked


@torch.no_grad()
def evaluate(llm: VideoLLM, pruner: Pruner, total: int = QUESTIONS) -> dict[str, Any]:
    """Return exact match of generated answers and accuracy among the choices, overall and by kind, and token counts."""
    exact: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    chosen: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    kept: list[float] = []
    with Progress("questions", total) as progress:
        for frames, asked in held_out_questions(total):
            for question in asked:
                with attach_family(llm.family, pruner, timestamps=frames.timestamps_s) as session:
                    answer, best = _answer(llm, frames, question)
                exact[question.kind].append(answer == question.answer)
                chosen[question.kind].append(best == question.answer)
                kept.append(session.report.videos[0].tokens_after)
                before = session.report.videos[0].tokens_before
                progress.step({"exact": float(exact[question.kind][-1])})
    return {
        "method": pruner.name,
        "retention": pruner.retention,
        "questions": sum(map(len, exact.values())),
        "exact_match": _mean(exact.values()),
        "accuracy": _mean(chosen.values()),
        "by_kind": {
            kind: {
                "questions": len(exact[kind]),
                "exact_match": _mean([exact[kind]]),
                "accuracy": _mean([chosen[kind]]),
            }
            for kind in KINDS
            if exact[kind]
        },
        "tokens_before": before,
        "tokens_after": sum(kept) / len(kept),
    }


def _answer(llm: VideoLLM, frames: Frames, question: Question) -> tuple[str, str]:
    """The generated answer, and the most likely of the choices."""
    inputs = model_inputs(llm, frames, question.text)
    prompt = inputs[Arg.IDS].shape[1]
    output = llm.model.generate(
        **inputs,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    answer = llm.tokenizer.decode(output.sequences[0, prompt:], skip_special_tokens=True).strip()
    words = [llm.tokenizer(choice).input_ids for choice in question.choices]
    if all(len(ids) == 1 for ids in words):
        scores = output.logits[0][0, [ids[0] for ids in words]]
    else:
        prompt_cache = cache_in(llm.model(**inputs, **{Arg.USE_CACHE: True}))
        scores = torch.tensor([log_likelihood(llm, inputs, output.logits[0], prompt_cache, ids) for ids in words])
    return answer, question.choices[int(scores.argmax())]


def log_likelihood(llm: VideoLLM, inputs: dict[str, Tensor], first: Tensor, prompt_cache: Any, ids: list[int]) -> float:
    """Log-likelihood of the tokens `ids` as the beginning of the answer.

    Parameters
    ----------
    first: ``(1, vocabulary)`` logits after the prompt.
    prompt_cache: cache of the prompt, used if there are several tokens.
    """
    logits, answer = first, torch.tensor([ids], device=first.device)
    if len(ids) > 1:
        mask = torch.cat([inputs[Arg.MASK], torch.ones_like(answer[:, :-1])], 1)
        cache = copy.deepcopy(prompt_cache)
        later = llm.model(**{Arg.IDS: answer[:, :-1], Arg.MASK: mask}, **cache_for(llm.model.forward, cache)).logits[0]
        logits = torch.cat([logits, later])
    return float(logits.float().log_softmax(-1).gather(1, answer.T).sum())


def _mean(parts: Any) -> float:
    values = [value for part in parts for value in part]
    return sum(values) / len(values)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tangovlm.tiny.evaluate", description=__doc__)
    parser.add_argument("--retention", type=float, default=1.0, help="fraction of the visual tokens to keep, in (0, 1]")
    parser.add_argument("--method", default="tango")
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--model", default=None, help="checkpoint directory (default: the embedded model)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    args = parser.parse_args(argv)
    if args.questions < 1:
        parser.error("--questions must be at least 1")
    try:
        pruner = build.method(args.method, retention=args.retention)
        result = evaluate(load(args.model), pruner, args.questions)
    except TangoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for kind, scores in result["by_kind"].items():
        print(f"{kind:10} exact {scores['exact_match']:.3f}  choices {scores['accuracy']:.3f}  n {scores['questions']}")
    kept = (
        f"{result['method']} at {result['retention']}: {result['tokens_after']:.0f} of {result['tokens_before']} tokens"
    )
    scores = f"exact {result['exact_match']:.3f}  choices {result['accuracy']:.3f}  n {result['questions']}"
    print(f"{'all':10} {scores}  ({kept})")
    if args.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
