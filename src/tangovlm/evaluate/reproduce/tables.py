"""The paper's tables and figures as lists of rows; `tangovlm reproduce NAME`.

The paper's settings are only partly known from its text and from the authors' release; `docs/reproducing.md` names the
source of each. Where text and release differ, a table has both, in addition to Tango with this library's defaults.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tangovlm import registry
from tangovlm.errors import InputError
from tangovlm.methods import build
from tangovlm.methods.common.segments import similarity_threshold

from .. import tables as eval_tables
from ..runs import Run, percent, settings
from .models import LLAVA_ONEVISION, LLAVA_VIDEO, QWEN2_5_VL
from .rows import PAPER, RELEASE, UNPRUNED, Row, check_unique_keys

RETENTIONS = (0.2, 0.15, 0.1)
TANGO = "Tango"
_VISIONZIP = {"dominant_ratio": 0.95}
"""5 % of the kept tokens are contextual tokens."""
_FASTVID = {"min_segments": 8, "segment_threshold": 0.9}
_MORE_FRAMES_METHODS = ("tango", "flashvid", "fastvid", "visionzip", "uniform")
_FRAME_FACTORS = (2, 4, 8, 10)
"""Numbers of frames in Fig. 6, as multiples of the usual one."""


@dataclass(frozen=True)
class Table:
    """Rows to compare.

    Parameters
    ----------
    name: on the command line.
    title: for the reader.
    model: the model that the paper measures.
    frames: frames per video.
    rows: in order, the unpruned model first.
    profile: whether times are compared too.
    """

    name: str
    title: str
    model: str
    frames: int
    rows: tuple[Row, ...]
    profile: bool = False

    def shorter(self, factor: int) -> "Table":
        """The same rows with the number of frames divided by a factor."""
        rows = tuple(replace(row, frames=max(1, row.frames // factor)) for row in self.rows)
        return replace(self, frames=max(1, self.frames // factor), rows=rows)

    @property
    def baseline(self) -> Row:
        """The unpruned model."""
        return self.rows[0]

    def tango(self, row: Row) -> Row | None:
        """Tango with its defaults in the row's group and with its number of frames; None for Tango itself."""
        group = (each for each in self.rows if (each.group, each.frames) == (row.group, row.frames))
        plain = next(filter(_is_plain_tango, group), None)
        return None if plain is row else plain


def names() -> tuple[str, ...]:
    """The names of all tables."""
    return tuple(_TABLES)


def table(name: str) -> Table:
    """A table of the paper by its name.

    Raises
    ------
    InputError: an unknown table.
    """
    if name not in _TABLES:
        raise InputError(f"there is no table {name!r}: choose one of {', '.join(_TABLES)}")
    title, model, frames, build = _TABLES[name]
    rows = (Row("all tokens", "100 %", UNPRUNED, 1.0, frames), *build(frames))
    check_unique_keys(rows)
    return Table(name, title, model, frames, rows, profile=name == "fig9")


def _is_plain_tango(row: Row) -> bool:
    # In a table of frames the threshold, which otherwise depends on the retention, is fixed.
    return (
        row.method == "tango" and row.in_llm is None and set(row.params) <= {"segment_threshold"} and not row.saliency
    )


def _row(label: str, method: str, retention: float, frames: int, **about: Any) -> Row:
    return Row(label, about.pop("group", percent(retention)), method, retention, frames, **about)


def _compared(retention: float, frames: int) -> Iterator[Row]:
    """The methods that Tango is compared with, with the paper's settings."""
    yield _row("FastV", "fastv", retention, frames)
    yield _row("DART", "dart", retention, frames, params={"visual_pivots": 4, "text_pivots": 4})
    yield _row("VisionZip", "visionzip", retention, frames, params=_VISIONZIP)
    yield _row("VidCom2", "vidcom2", retention, frames)
    yield _row("FastVID", "fastvid", retention, frames, params=_FASTVID)


def _tangos(retention: float, frames: int, in_llm: str | None = None) -> Iterator[Row]:
    """Tango with its defaults, as the paper's text describes it, and as the authors' code implements it."""
    also = "" if in_llm is None else f" + {in_llm}"
    for label, method in ((TANGO, "tango"), (f"{TANGO}, the paper's text", PAPER), (f"{TANGO}, the release", RELEASE)):
        yield _row(label + also, method, retention, frames, in_llm=in_llm, published=TANGO + also)


def _main(frames: int) -> Iterator[Row]:
    for retention in RETENTIONS:
        yield from _compared(retention, frames)
        if retention == max(RETENTIONS):
            yield _row("PruneVid", "prunevid", retention, frames)
        yield from _tangos(retention, frames)


def _inside(frames: int) -> Iterator[Row]:
    for retention in RETENTIONS:
        yield _row("HoliTom", "holitom", retention, frames, in_llm="holitom-merge")
        yield from _tangos(retention, frames)
        yield from _tangos(retention, frames, in_llm="tango-fastv")


def _qwen(frames: int) -> Iterator[Row]:
    for retention in RETENTIONS:
        yield from _compared(retention, frames)
        yield from _tangos(retention, frames)


def _ablation(frames: int) -> Iterator[Row]:
    yield from _of_eval("ablation", 0.1)(frames)
    yield from (row for row in _tangos(0.1, frames) if row.method != "tango")


def _signals(frames: int) -> Iterator[Row]:
    for row in _of_eval("ablation", 0.1)(frames):
        if row.label.startswith(("top-k in segments", "+ diversity")):
            yield row


def _of_eval(name: str, *retentions: float) -> Callable[[int], Iterator[Row]]:
    """Rows of a table of `tangovlm eval`, which has the paper's settings."""

    def rows(frames: int) -> Iterator[Row]:
        _, *runs = eval_tables.table(name, retentions).runs
        for run in runs:
            yield _as_row(run, frames)

    return rows


def _as_row(run: Run, frames: int) -> Row:
    frames = run.frames or frames
    if run.unpruned:
        return Row(run.label, run.group, UNPRUNED, 1.0, frames)
    pruner = run.pruner
    own, defaults = settings(pruner), settings(build.method(pruner.name, retention=pruner.retention))
    params = {name: value for name, value in own.items() if value != defaults[name]}
    saliency = None if run.saliency == getattr(pruner, "signal", "p-attn") else run.saliency
    plain = pruner.name == "tango" and not params and saliency is None
    return Row(
        run.label,
        run.group,
        pruner.name,
        pruner.retention,
        frames,
        params=params,
        saliency=saliency,
        published=TANGO if plain else None,
    )


def _more_frames(frames: int) -> Iterator[Row]:
    """The token count of the unpruned video, from up to ten times more frames; thresholds are those of the most."""
    threshold = similarity_threshold(1 / _FRAME_FACTORS[-1])
    for name in _MORE_FRAMES_METHODS:
        fixed = {"segment_threshold": threshold} if eval_tables.follows_retention(name) else {}
        params = fixed | {"visionzip": _VISIONZIP, "fastvid": _FASTVID}.get(name, {})
        for factor in _FRAME_FACTORS:
            count = factor * frames
            group = f"as many tokens as {frames} frames have"
            yield _row(f"{name}, {count} frames", name, 1 / factor, count, group=group, params=params)


def _latency(frames: int) -> Iterator[Row]:
    for retention in (0.5, 0.3, 0.2, 0.15, 0.1, 0.05):
        yield _row(TANGO, "tango", retention, frames)


def _beyond(frames: int) -> Iterator[Row]:
    """Every registered method before the language model, also at retentions below the paper's."""
    known = [name for name, cls in registry.methods().items() if getattr(cls, "stage", "") == "pre-llm"]
    others = sorted(name for name in known if name not in ("tango", "topk"))
    for retention in (0.2, 0.1, 0.05, 0.02, 0.01):
        yield from _tangos(retention, frames)
        for signal in ("attn", "p-attn"):
            yield _row(f"top-k, {signal}", "topk", retention, frames, params={"signal": signal})
        for name in others:
            params = {"visionzip": _VISIONZIP, "fastvid": _FASTVID}.get(name, {})
            yield _row(name, name, retention, frames, params=params)


_TABLES: dict[str, tuple[str, str, int, Callable[[int], Iterator[Row]]]] = {
    "table1": ("Table 1: LLaVA-OneVision-7B, 32 frames", LLAVA_ONEVISION, 32, _main),
    "table2": ("Table 2: LLaVA-Video-7B, 64 frames, pruning inside the language model too", LLAVA_VIDEO, 64, _inside),
    "table3": ("Table 3: parts of Tango", LLAVA_ONEVISION, 32, _ablation),
    "table4": ("Table 4: frequency bases of ST-RoPE", LLAVA_ONEVISION, 32, _of_eval("bases", 0.1)),
    "fig6": ("Fig. 6: more frames for the same tokens", LLAVA_ONEVISION, 32, _more_frames),
    "fig7": ("Fig. 7: saliency signals, with and without diversity", LLAVA_ONEVISION, 32, _signals),
    "fig8": ("Fig. 8: candidates per salient token", LLAVA_ONEVISION, 32, _of_eval("expansion", 0.1)),
    "fig9": ("Fig. 9: time and accuracy over the kept share", LLAVA_ONEVISION, 32, _latency),
    "qwen": ("The comparison on Qwen2.5-VL-7B, 32 frames", QWEN2_5_VL, 32, _qwen),
    "beyond": ("Beyond the paper: newer methods, and 20 % down to 1 %", LLAVA_ONEVISION, 32, _beyond),
}
"""Title, the paper's model, frames, and the rows after the unpruned one."""
