"""The HTML page: whole in itself, honest about its text, and true to the selection."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from PIL import Image

import tangovlm
from tangovlm import budget
from tangovlm.report import RETENTIONS, Exchange, Scene, html_page, scene
from tangovlm.session.records import Alternative, VideoRecord
from tangovlm.tokens import VideoReport
from tangovlm.video import Frames
from tests.report.conftest import make_answer, with_cuts
from tests.support.page import read_bits, read_set

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
    cells = page.text("td") + page.text("th") + page.text("span") + page.text("dt")
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


def picture(source: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


def test_three_layers_of_every_frame(page: Page, drawn: Scene) -> None:
    pictures = page.all("img")
    assert [each["class"] for each in pictures] == ["frame", "over saliency"] * drawn.steps
    assert [each["class"] for each in page.all("canvas")] == ["over kept", "over marks"] * drawn.steps
    assert pictures[0]["src"].startswith("data:image/jpeg;base64,")
    assert picture(pictures[0]["src"]).size == (224, round(224 * 30 / 44))
    colours = [attributes["class"] for attributes in page.all("figcaption")]
    assert colours == [f"segment-{drawn.segment_of(step) % 4}" for step in range(drawn.steps)]


def test_shape_of_frames_is_that_of_the_video(frames: Frames, record: VideoRecord, exchange: Exchange) -> None:
    wide = scene(replace(frames, aspect=16 / 9), record)
    images = Page(html_page(wide, [exchange], title="t", settings={})).all("img")
    assert picture(images[0]["src"]).size == (224, 126)


def test_legend_and_scale(page: Page) -> None:
    words = page.text("span")
    assert all(
        wanted in words for wanted in ("kept: ", "merged ", "dropped", "4 × 3 in a frame", "square root", "0 ", " 1")
    )
    (scale,) = [each for each in page.all("i") if each["class"] == "scale"]
    assert scale["style"].startswith("background:linear-gradient(90deg, #0a0822 0%")


def test_no_legend_without_a_layer(frames: Frames, exchange: Exchange) -> None:
    page = Page(html_page(scene(frames, None), [exchange], title="t", settings={}))
    assert not any("legend" in each.get("class", "") for each in page.all("p"))


def test_tokens_by_layer(drawn: Scene, exchange: Exchange) -> None:
    exchange.answer.tokens_per_layer = (18, 18, 9, 9, 3)
    page = Page(html_page(drawn, [exchange], title="t", settings={}))
    rows = page.text("td").split("\n")
    first = rows.index("video")
    assert rows[first : first + 15] == [
        "video", "60", "100 %",
        "layers 0–1", "18", "30 %", "42",
        "layers 2–3", "9", "15 %", "9",
        "layer 4", "3", "5 %", "6",
    ]  # fmt: skip
    assert [each["style"] for each in page.all("div") if each.get("class") == "bar"] == [
        "width:100.0%", "width:30.0%", "width:15.0%", "width:5.0%",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["topk", "tango"])
@pytest.mark.parametrize("grid", [(14, 14), (27, 27)])
def test_page_of_64_noisy_frames_is_below_a_megabyte(grid: tuple[int, int], name: str, exchange: Exchange) -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 224, 224), generator=draw).to(torch.uint8)
    frames = Frames(pixels, torch.arange(64, dtype=torch.float64), fps=1.0, duration_s=64.0, aspect=16 / 9)
    saliency = torch.rand(64, *grid, generator=draw)
    tokens = tangovlm.VideoTokens(torch.randn(64, *grid, 8, generator=draw), saliency=saliency)
    selection = tangovlm.method(name, retention=0.1)(tokens)
    report = VideoReport(saliency.numel(), len(selection.indices), 0.1, name, selection.segments)
    others = []
    for retention in RETENTIONS:
        # Noise in place of clusters, which compresses least.
        kept = tangovlm.method("topk", retention=retention)(tokens)
        sources = torch.randint(len(kept.indices), saliency.shape, generator=draw)
        sources.view(-1)[kept.indices] = torch.arange(len(kept.indices))
        others.append(Alternative(retention, replace(kept, sources=sources)))
    drawn = scene(frames, VideoRecord(selection, saliency, report, tuple(others)))
    text = html_page(drawn, [exchange], title="t", settings={})
    assert len(text.encode()) < 1_000_000
    data = tokens_of(Page(text))
    assert [each["kept"] for each in data["sets"]] == [budget.count(each, saliency.numel()) for each in RETENTIONS]
    assert data["sets"][2]["answered"] and data["sets"][2]["clustered"]


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


def tokens_of(page: Page) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(next(text for tag, text in page.texts if tag == "script"))
    return data


def test_script_reads_the_selections(page: Page, record: VideoRecord) -> None:
    data = tokens_of(page)
    assert data["times"] == [0, 0.25, 0.5, 0.75, 1.0]
    assert [each["label"] for each in data["sets"]] == ["10 %", "20 %", "30 %", "50 %"]
    assert [each["answered"] for each in data["sets"]] == [False, False, True, False]
    selections = [each.selection for each in record.alternatives if each.selection is not None]
    for number, selection in enumerate([*selections[:2], record.selection, selections[2]]):
        sources, kept = read_set(data, number)
        assert sources.tolist() == selection.sources.tolist()
        assert kept.ravel().nonzero()[0].tolist() == selection.indices.tolist()
        assert data["sets"][number]["segments"] == list(selection.segments)
        assert data["sets"][number]["kept"] == len(selection.indices)
    assert data["cuts"] == []


def test_slider_over_retentions(page: Page) -> None:
    (slider,) = [each for each in page.all("input") if each.get("type") == "range"]
    assert (slider["id"], slider["min"], slider["max"], slider["value"]) == ("retention", "0", "3", "2")
    assert slider["aria-valuetext"] == "30 %"
    assert [text for tag, text in page.texts if tag == "span" and text.endswith(" %")] == [
        "10 %",
        "20 %",
        "30 %",
        "50 %",
    ]
    assert "Not possible at 1 %: too <few> tokens" in page.text("p")


def test_one_retention_needs_no_slider(frames: Frames, record: VideoRecord, exchange: Exchange) -> None:
    alone = scene(frames, replace(record, alternatives=()))
    page = Page(html_page(alone, [exchange], title="t", settings={}))
    assert not [each for each in page.all("input") if each.get("type") == "range"]
    assert len(tokens_of(page)["sets"]) == 1


def test_bounds_are_named_so(drawn: Scene, exchange: Exchange) -> None:
    exchange.answer.tokens_cap = 20
    page = Page(html_page(drawn, [exchange], title="t", settings={}))
    assert tokens_of(page)["sets"][0]["label"] == "at most 10 %"
    assert "Retention, at most" in page.text("label")


def test_what_layers_drop(frames: Frames, record: VideoRecord, exchange: Exchange) -> None:
    exchange.answer.tokens_per_layer = (18, 18, 9, 7)
    inside = with_cuts(record)
    page = Page(html_page(scene(frames, inside), [exchange], title="t", settings={}))
    slider = next(each for each in page.all("input") if each["id"] == "layers")
    assert (slider["max"], slider["value"], slider["aria-valuetext"]) == ("2", "0", "layers 0–1")
    data = tokens_of(page)
    assert data["layers"] == 4
    assert [(cut["layer"], cut["added"]) for cut in data["cuts"]] == [(2, 0), (3, 2)]
    for cut, wanted in zip(data["cuts"], inside.cuts, strict=True):
        assert read_bits(cut["data"], tuple(data["grid"])).ravel().nonzero()[0].tolist() == wanted.indices.tolist()


def test_all_text_is_escaped(drawn: Scene, exchange: Exchange, frames: Frames, record: VideoRecord) -> None:
    answer = type(exchange.answer)(EVIL)
    answer.__dict__.update(exchange.answer.__dict__, notes=(EVIL,), method=EVIL, model=EVIL)
    evil = replace(exchange, question=EVIL, answer=answer, truth=EVIL)
    page = Page(html_page(drawn, [evil], title=EVIL, settings={EVIL: EVIL}))
    assert len(page.all("script")) == 2
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert all(picture["src"].startswith("data:") for picture in page.all("img"))
    assert page.text("title") == page.text("h1") == EVIL
    assert page.text("td").count(EVIL) >= 2
    assert page.text("dt") == page.text("dd") == EVIL


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


def test_questions_with_other_tokens_are_told_apart(frames: Frames, record: VideoRecord, exchange: Exchange) -> None:
    words = "those of the first one are drawn"
    cut = with_cuts(record)
    other = replace(cut, cuts=(replace(cut.cuts[0], indices=record.selection.indices[1::2]), cut.cuts[1]))

    def text(*videos: VideoRecord) -> str:
        asked = [replace(exchange, answer=make_answer("red", frames, video, 0.3)) for video in videos]
        return Page(html_page(scene(frames, videos[0]), asked, title="t", settings={})).text("p")

    assert words in text(cut, cut, other)
    small = record.alternatives[0].selection
    assert small is not None
    assert words in text(record, replace(record, selection=small))
    for same in ((cut,), (cut, cut), (record, replace(record))):
        assert words not in text(*same)
