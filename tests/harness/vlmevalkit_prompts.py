"""Prompts of VLMEvalKit for each data set, as in the authors' release for LLaVA-OneVision, and the correct answers."""

from tangovlm.evaluate.harness.vlmevalkit.presets import DATA_SETS
from tangovlm.evaluate.harness.vlmevalkit.results import Score

VIDEO_MME = """
These are the frames of a video. Select the best answer to the following multiple-choice question based on the video. \
Respond with only the letter (A, B, C, or D) of the correct option.
Question: {question}
{options}
Answer: """
MVBENCH = """Carefully watch the video and pay attention to the cause and sequence of events, \
the detail and movement of objects, and the action and pose of persons. \
Based on your observations, select the best option that accurately addresses the question.
Question: {question}
Options:
{bracketed}
Only give the best option.Best option:("""
LONG_VIDEO_BENCH = """{question}
{options}
Answer with the option's letter from the given choices directly."""
MLVU = """Carefully watch this video and pay attention to every detail. \
Based on your observations, select the best option that accurately addresses the question.Question: {question}
Options:
{bracketed}
Only give the best option."""
PROMPTS = dict(zip(DATA_SETS, (VIDEO_MME, MVBENCH, LONG_VIDEO_BENCH, MLVU), strict=True))
"""Prompts of the authors' release for LLaVA-OneVision."""


def asked(score: Score) -> tuple[str, list[str], str]:
    """The question, its options and the right one, out of VLMEvalKit's file."""
    row = score.row
    options = [
        str(option).removeprefix(f"{letter}. ") for letter, option in zip("ABCD", eval(row["candidates"]), strict=True)
    ]
    if "correct_choice" in row:
        return row["question"], options, options[int(row["correct_choice"])]
    answer = row["answer"]
    return row["question"], options, answer if answer in options else options["ABCD".index(answer)]


def prompt(name: str, score: Score) -> str:
    question, options, _ = asked(score)
    return PROMPTS[name].format(
        question=question,
        options="\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True)),
        bracketed="\n".join(f"({letter}) {option}" for letter, option in zip("ABCD", options, strict=True)),
    )
