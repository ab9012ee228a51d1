"""Colours and fonts of the page. Every pair of text and background has a contrast of at least 4.5 to 1."""

from collections.abc import Sequence
from importlib.resources import files

import gradio as gr

from ..clips import Example

# Names of installed fonts only: those that Gradio's themes name otherwise may be fetched from another server.
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def theme() -> gr.themes.Base:
    """The theme, light and dark."""
    base = gr.themes.Default(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=_FONTS,
        font_mono=_MONO,
    )
    return base.set(
        body_background_fill="#f8fafc",
        body_background_fill_dark="#0b1120",
        body_text_color="#0f172a",
        body_text_color_dark="#f1f5f9",
        body_text_color_subdued="#475569",
        body_text_color_subdued_dark="#b6c2d1",
        block_background_fill="#ffffff",
        block_background_fill_dark="#131c2e",
        block_border_color="#d5dde8",
        block_border_color_dark="#2b3850",
        block_label_text_color="#334155",
        block_label_text_color_dark="#cbd5e1",
        block_title_text_color="#334155",
        block_title_text_color_dark="#cbd5e1",
        block_info_text_color="#475569",
        block_info_text_color_dark="#b6c2d1",
        block_shadow="none",
        block_shadow_dark="none",
        input_background_fill="#ffffff",
        input_background_fill_dark="#0f172a",
        input_border_color="#94a3b8",
        input_border_color_dark="#64748b",
        input_placeholder_color="#5b6b80",
        input_placeholder_color_dark="#a3b1c4",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_hover_dark="#115e59",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        slider_color="#0f766e",
        slider_color_dark="#2dd4bf",
        checkbox_background_color_selected="#0f766e",
        checkbox_background_color_selected_dark="#0f766e",
        checkbox_border_color_selected="#0f766e",
        checkbox_border_color_selected_dark="#2dd4bf",
        checkbox_label_background_fill_selected="#ccfbf1",
        checkbox_label_background_fill_selected_dark="#134e4a",
        checkbox_label_text_color_selected="#0f172a",
        checkbox_label_text_color_selected_dark="#f1f5f9",
    )


def style() -> str:
    """The style sheet of the page."""
    return files(__package__).joinpath("page.css").read_text(encoding="utf-8")


def thumbnails(clips: Sequence[Example]) -> str:
    """Style of the choice of clips: a frame of each."""
    return "".join(
        f"#tv-clips label:nth-of-type({place})::before {{ background-image: url('{clip.thumbnail()}'); }}\n"
        for place, clip in enumerate(clips, start=1)
    )


def head() -> str:
    """What the head of the page contains: its script."""
    script = files(__package__).joinpath("page.js").read_text(encoding="utf-8")
    return f"<meta name=color-scheme content='light dark'><script>{script}</script>"
