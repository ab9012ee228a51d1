"""The benchmark of the embedded model on vLLM, compared with the same questions through `attach`."""

from pathlib import Path

import pytest

import tangovlm
from tangovlm.evaluate import runner, runs, tangoworld
from tangovlm.tiny.evaluate import MAX_NEW_TOKENS
from tests.support.serve.checkpoints import embedded
from tests.support.serve.engine import Request, answers

pytest.importorskip("vllm")


@pytest.mark.parametrize(("method", "questions"), [("tango", 200), ("milonga", 60)])
def test_questions(method: str, questions: int, tmp_path: Path) -> None:
    """With the positions of the method: contiguous ones for Tango, those of the unpruned prompt for Milonga."""
    cases = tangoworld.load_questions(questions)
    llm = tangovlm.load(device="cpu")
    rows = runner.answer_clips(llm, {0: runs.build_run(method, 0.1)}, cases, (), lambda _: None)
    expected = {row.number: row for found in rows for row in found}
    requests, truth = {}, {}
    for case in cases:
        seen = tangoworld.render_clip(case.clip(), case.length)
        frames = seen.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        video = (frames, {"fps": 1.0, "frames_indices": seen.seconds.tolist()})
        for asked in case.questions:
            prompt = f"<video>{asked.question.text}<|assistant|>"
            requests[asked.number] = Request(prompt, (video,), max_tokens=MAX_NEW_TOKENS)
            truth[asked.number] = asked.question.answer
    assert len(requests) == questions
    options = {"max_model_len": 4096, "hf_overrides": {"tango": {"retention": 0.1, "method": method}}}
    (replies,) = answers(tmp_path, [list(requests.values())], model=str(embedded()), **options)
    told = {
        number: llm.tokenizer.decode(reply.ids, skip_special_tokens=True).strip()
        for number, reply in zip(requests, replies, strict=True)
    }
    right = sum(told[number] == truth[number] for number in truth)
    assert abs(right - sum(row.exact for row in expected.values())) <= 1
    assert sum(told[number] != row.answer for number, row in expected.items()) <= 1
    assert right > questions / 2
