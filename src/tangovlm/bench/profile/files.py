"""Inputs and outputs of profiles: rows from a results directory, the authors' row, CSV, Markdown and a plot."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError
from tangovlm.evaluate.reproduce.paper import profile
from tangovlm.report import whole_file, write_whole
from tangovlm.report.plot import check_matplotlib

from ..tables import Row, markdown
from .benchmark import COLUMNS

AUTHORS_NOTE = (
    "The authors measured LLaVA-OneVision-7B on Video-MME, 32 frames per video, with 8 NVIDIA A800: on other hardware, "
    "compare only fractions within a row and differences between rows of one device."
)
PICTURE_SUFFIXES = (".png", ".svg", ".pdf")


def authors() -> dict[str, Any]:
    """The row of the authors' README."""
    about: dict[str, Any] = dict.fromkeys(
        ("tokens_after", "decode_ms", "speedup", "accuracy", "clips", "frames", "total_runtime_s")
    )
    published = profile()
    return (
        about
        | published
        | {"method": "authors, tango", "retention": 0.1, "device": "8 NVIDIA A800", "source": "README"}
    )


def read_results(folder: Path) -> Iterator[dict[str, Any]]:
    """Read rows with times and accuracy from the output of `tangovlm reproduce`, such as `tangovlm-reproduce/fig9`.

    Raises
    ------
    InputError: there are no results, or none with times.
    """
    found = sorted(folder.glob("*.json"))
    if not found:
        raise InputError(f"--results {folder} has no table: give the folder of a finished `tangovlm reproduce fig9`")
    about = _read(found[0])
    try:
        rows = [
            {
                "model": about["model"],
                "method": line["label"],
                "retention": line["hyper_parameters"]["retention"],
                "frames": line["hyper_parameters"]["frames"],
                "source": str(folder),
                "clips": line["questions"],
                "accuracy": line["ours"]["average"],
                "total_runtime_s": None,
                **line["measured"],
            }
            for line in about["lines"]
            if line["measured"]
        ]
        whole = next((row["ttft_ms"] for row in rows if row["retention"] == 1), None)
        rows = [row | {"speedup": whole / row["ttft_ms"] if whole else None} for row in rows]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{found[0]} is not a table of `tangovlm reproduce` ({error!r}): choose another folder"
        ) from error
    if not rows:
        raise InputError(f"{found[0]} has no times: run the table with --harness lmms-eval, which measures them")
    yield from rows


def page(rows: Sequence[Row]) -> str:
    """The table in Markdown, with the authors' row last and a note on their hardware."""
    return f"{markdown([*rows, authors()], COLUMNS)}\n\n{AUTHORS_NOTE}\n"


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, with the authors' row last; entries that are neither numbers nor text are left out.

    Raises
    ------
    InputError: the file cannot be written.
    """
    listed = [*rows, authors()]
    names = [name for name in dict.fromkeys(name for row in listed for name in row) if _flat(listed, name)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    write_whole(path, text.getvalue().encode())


def check_picture(path: Path) -> None:
    """Raise `InputError` if no plot can be written to this file."""
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise InputError(f"--picture {path}: the name must end in one of {', '.join(PICTURE_SUFFIXES)}")
    check_matplotlib("--picture")


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Plot the time to the first token per stage, and the accuracy if it is known, over the retention.

    Raises
    ------
    InputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    ordered = sorted(rows, key=lambda row: -row["retention"])
    judged = [row for row in ordered if row["accuracy"] is not None]
    figure = Figure(figsize=(10 if judged else 6, 4), layout="constrained")
    axes = figure.subplots(1, 2 if judged else 1, squeeze=False)[0]
    labels = [f"{100 * row['retention']:g} %" for row in ordered]
    bottom = [0.0] * len(ordered)
    for name, title in (("vit_ms", "vision encoder"), ("other_ms", "other"), ("prefill_ms", "prefill")):
        heights = [row[name] or 0.0 for row in ordered]
        axes[0].bar(labels, heights, bottom=bottom, label=title)
        bottom = [below + height for below, height in zip(bottom, heights, strict=True)]
    axes[0].set(xlabel="kept visual tokens", ylabel="time to the first token in ms")
    axes[0].legend()
    if judged:
        axes[1].plot([row["ttft_ms"] for row in judged], [row["accuracy"] for row in judged], "o-")
        for row in judged:
            place = {"xytext": (-6, -12), "textcoords": "offset points"}
            axes[1].annotate(f"{100 * row['retention']:g} %", (row["ttft_ms"], row["accuracy"]), **place)
        axes[1].set(xlabel="time to the first token in ms", ylabel="right answers in percent")
    figure.suptitle(", ".join(dict.fromkeys(f"{row['model']} on {row['device']}" for row in ordered)))
    with whole_file(path) as temporary:
        figure.savefig(temporary)


def _flat(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(not isinstance(row.get(name), dict | list | tuple) for row in rows)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: choose another folder") from error
