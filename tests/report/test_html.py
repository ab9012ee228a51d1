"""The HTML page: whole in itself, honest about its text, and true to the selection."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tangovlm.report import Exchange, Scene, html_page, scene
from tangovlm.session.records import VideoRecord
from tangovlm.video import Frames

EVIL = "</title></script><script>alert(1)</script><img src=x onerror='alert(2)'>\" ' &"
VOID = {"meta", "input", "img"}


class Page(HTMLParser):
    """Elements and text of a page; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.texts.append((self._open[-1], data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> str:
        return "\n".join(text for name, text in self.texts if name == tag)


@pytest.fixture
def page(drawn: Scene, exchange: Exchange) -> Page:
    return Page(html_page(drawn, [exchange], title="clip.mp4", settings={"method": "tango", "neighbors": 7}))


def test_shows_answers_figures_notes_and_settings(page: Page) -> None:
    cells = page.text("td") + page.text("th") + page.text("span")
    for wanted in (
        "What color is the star?",
        "red",
        "blue",
        "all tokens",
        "tango, 30 %",
        "18",
        "60",
        "69.0",
        "neighbors",
    ):
        assert wanted in cells
    assert page.text("li") == "a note\nanother & <b>bold</b> note"
    marks = {attributes["class"] for attributes in page.all("span") if attributes.get("class") in {"right", "wrong"}}
    assert marks == {"right", "wrong"}


def test_three_layers_of_every_frame(page: Page, drawn: Scene) -> None:
    pictures = page.all("img")
    assert len(pictures) == 3 * drawn.steps
    assert {picture["class"] for picture in pictures} == {"frame", "saliency", "kept"}
    kind, _, data = pictures[0]["src"].partition(",")
    assert kind == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.size == (224, round(224 * 30 / 44))
    assert len({attributes["style"] for attributes in page.all("figcaption")}) == len(drawn.segments)


def test_loads_nothing_from_elsewhere(drawn: Scene, exchange: Exchange) -> None:
    text = html_page(drawn, [exchange], title="clip.mp4", settings={})
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"@import|url\(|<link|<iframe|<object", text)
    assert all(picture["src"].startswith("data:") for picture in Page(text).all("img"))


def test_policy_allows_the_own_script_only(page: Page) -> None:
    (policy,) = [
        meta["content"] for meta in page.all("meta") if "content-security-policy" in meta.get("http-equiv", "").lower()
    ]
    (_, script) = [text for tag, text in page.texts if tag == "script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_hovering_reads_the_selection(page: Page, record: VideoRecord) -> None:
    data = json.loads(next(text for tag, text in page.texts if tag == "script"))
    sources = record.selection.sources
    assert data["sources"] == sources.tolist()
    places = np.ravel_multi_index(np.array(data["kept"]).T, sources.shape)
    assert places.tolist() == record.selection.indices.tolist()
    assert data["times"] == [0, 0.25, 0.5, 0.75, 1.0]


def test_all_text_is_escaped(drawn: Scene, exchange: Exchange, frames: Frames, record: VideoRecord) -> None:
    answer = type(exchange.answer)(EVIL)
    answer.__dict__.update(exchange.answer.__dict__, notes=(EVIL,), method=EVIL, model=EVIL)
    evil = replace(exchange, question=EVIL, answer=answer, truth=EVIL)
    page = Page(html_page(drawn, [evil], title=EVIL, settings={EVIL: EVIL}))
    assert len(page.all("script")) == 2
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert all(picture["src"].startswith("data:") for picture in page.all("img"))
    assert page.text("title") == page.text("h1") == EVIL
    assert page.text("td").count(EVIL) >= 4


def test_without_a_recording(frames: Frames, exchange: Exchange) -> None:
    page = Page(html_page(scene(frames, None), [exchange], title="t", settings={}))
    assert {picture["class"] for picture in page.all("img")} == {"frame"}
    assert page.all("script") == []


def test_several_questions_share_a_page(drawn: Scene, exchange: Exchange) -> None:
    second = replace(exchange, question="And now?", truth=None)
    page = Page(html_page(drawn, [exchange, second], title="t", settings={}))
    assert "And now?" in page.text("td")
    assert "means over 2 questions" in page.text("p")


def test_single_answer(drawn: Scene, exchange: Exchange) -> None:
    page = Page(html_page(drawn, [Exchange("Why?", exchange.answer)], title="t", settings={}))
    assert "all tokens" not in page.text("th")
    assert "truth" not in page.text("th")
