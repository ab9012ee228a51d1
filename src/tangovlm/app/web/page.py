"""The layout of the page, and which event calls which handler."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from ..views import answers, comparison, frames, parts
from .handlers import FIRST, Handlers

HEAD = (
    "<header class=tv-head><h1>tangovlm</h1><p>Ask about a video, and see which few of its visual tokens the answer "
    "needs.</p></header>"
)
COMPARED = ("tango", "milonga", "fastvid", "visionzip", "uniform")
"""Methods that are compared unless others are chosen."""
POSITIONS = (
    ("as the method sets them", "method"),
    ("consecutive", "contiguous"),
    ("those of the unpruned prompt", "original"),
)
AT_ONCE = 32
"""Questions that may run or wait at the same time; the model answers one after the other."""


def build(handlers: Handlers, methods: Sequence[str]) -> gr.Blocks:
    """The page.

    Parameters
    ----------
    methods: names of the methods to choose from.
    """
    limits = handlers.engine.limits
    names = list(handlers.examples)
    with gr.Blocks(title="tangovlm", analytics_enabled=False) as page:
        gr.HTML(HEAD)
        model = gr.HTML()
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                player = gr.HTML(parts.still(names[0], handlers.examples[names[0]].poster()))
                clip_message = gr.HTML()
                clip = gr.Radio(names, value=names[0], label="Clip", elem_id="tv-clips")
                picker = gr.HTML()
                uploaded = gr.Button("uploaded", elem_id="tv-uploaded", elem_classes="tv-hidden")
            with gr.Column(scale=3, min_width=320):
                question = gr.Textbox(label="Question", placeholder="What happens in the clip?", elem_id="tv-question")
                suggestions = gr.Radio([], label="Suggestions", visible=False, elem_id="tv-suggestions")
                with gr.Row():
                    method = gr.Dropdown(
                        list(methods), value=FIRST.method, label="Method", elem_id="tv-method", min_width=160
                    )
                    retention = _slider("Tokens to keep (%)", 100, 100 * FIRST.retention, "tv-retention")
                with gr.Accordion("More settings", open=False):
                    count = _slider("Frames", limits.max_frames, 16, "tv-count")
                    positions = gr.Radio(
                        POSITIONS, value="method", label="Positions of the kept tokens", elem_id="tv-positions"
                    )
                    length = _slider("Longest answer (tokens)", limits.max_new_tokens, 64, "tv-length")
                ask = gr.Button("Ask", variant="primary", interactive=False, elem_id="tv-ask")
        with gr.Tabs():
            with gr.Tab("Full and pruned", id="answers"):
                answered = gr.HTML(answers.EMPTY, elem_id="tv-answers")
                gr.HTML(frames.layer_choice("tv-layer"))
                shown = gr.HTML(elem_id="tv-shown")
            with gr.Tab("Compare methods", id="comparison"):
                common = [name for name in COMPARED if name in methods]
                chosen = gr.CheckboxGroup(list(methods), value=common, label="Methods", elem_id="tv-compared")
                compare = gr.Button("Compare", variant="primary", interactive=False, elem_id="tv-compare")
                gr.HTML(frames.layer_choice("tv-strip"))
                compared = gr.HTML(comparison.EMPTY, elem_id="tv-comparison")

        settings = [method, retention, count, positions, length]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        model_use = {**quiet, "concurrency_limit": AT_ONCE, "concurrency_id": "model"}
        changed = [player, clip_message, clip, suggestions, answered, shown, compared]
        choosing = {**quiet, "concurrency_limit": AT_ONCE}
        # It waits while the model is loaded.
        page.load(handlers.ready, None, [model, picker, ask, compare, count], concurrency_limit=None, **quiet)
        page.load(handlers.choose_example, clip, changed, **choosing)
        # Each choice is taken when it is made: the end of one before it marks its own clip as chosen again.
        clip.input(handlers.choose_example, clip, changed, trigger_mode="multiple", **choosing)
        uploaded.click(handlers.choose_upload, None, changed, **quiet)
        suggestions.input(None, suggestions, question, js="(text) => text", **quiet)
        asking = [question, *settings]
        ask.click(handlers.ask, asking, [answered, shown], trigger_mode="multiple", **model_use)
        question.submit(handlers.ask, asking, [answered, shown], trigger_mode="multiple", **model_use)
        for control in (method, retention):
            control.input(handlers.again, settings, [answered, shown], trigger_mode="always_last", **model_use)
        compare.click(
            handlers.compare, [chosen, question, *settings[1:]], compared, trigger_mode="multiple", **model_use
        )
        page.unload(handlers.close)
    page.queue(max_size=200)
    return page


def _slider(label: str, most: int, value: float, name: str) -> gr.Slider:
    """A slider over whole numbers from 1."""
    return gr.Slider(1, most, min(value, most), step=1, label=label, elem_id=name, buttons=[])
