"""Regenerate docs/figures: what `tangovlm inspect` writes for the embedded model, and the tables of the page.

Usage: python scripts/make_figures.py [--tables] [NAME ...]

`--tables` only writes the tables again, from the CSV files that are there. A NAME, such as decay, draws this one only.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from tangovlm.cli import main as tangovlm
from tangovlm.evaluate.statistics import Bootstrap

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "figures"
PAGE = FOLDER / "README.md"
NAMES = ("attention", "distribution", "norms", "clusters", "decay", "compare")

Rows = list[dict[str, str]]


def read(name: str) -> Rows:
    """The rows of a CSV file of the folder."""
    return list(csv.DictReader((FOLDER / f"{name}.csv").read_text(encoding="utf-8").splitlines()))


def attention() -> str:
    """Share of the ten highest tokens of a frame, and how many of them both kinds have in common."""
    rows, lines = read("attention"), []
    kinds = list(dict.fromkeys(row["saliency"] for row in rows))
    marked = {
        kind: {
            (row["step"], row["row"], row["column"]): float(row["share"])
            for row in rows
            if row["saliency"] == kind and int(row["place"]) <= 10
        }
        for kind in kinds
    }
    steps = len({row["step"] for row in rows})
    for kind, tokens in marked.items():
        common = len(tokens.keys() & marked[kinds[0]].keys()) / len(tokens)
        edges = sum(row in ("0", "7") or column in ("0", "7") for _, row, column in tokens) / len(tokens)
        lines.append((kind, percent(sum(tokens.values()) / steps), percent(common), percent(edges)))
    return table(("saliency", "share of the 10", f"also among the 10 of {kinds[0]}", "on the edge of the frame"), lines)


def distribution() -> str:
    """Share of the attention of the top tokens of a frame."""
    rows = read("distribution")
    kinds = list(dict.fromkeys(row["saliency"] for row in rows))
    lines = []
    for tokens in (3, 6, 13, 32):
        of = [row for row in rows if int(row["place"]) == tokens]
        shares = [f"{percent(float(row['top_share_mean']))} ± {100 * float(row['top_share_sd']):.1f}" for row in of]
        lines.append((f"{tokens} ({percent(float(of[0]['fraction_of_tokens']))})", *shares))
    return table(("tokens of a frame", *kinds), lines)


def norms() -> str:
    """Norms after the last layer at quantiles, and their median along the layers."""
    rows = read("norms")
    layers = list(dict.fromkeys(row["point"] for row in rows if row["where"] == "layer"))
    names = ("q1", "q25", "q50", "q75", "q99", "q100")
    lines = [
        (row["group"], row["point"], row["tokens"], *(f"{float(row[name]):.1f}" for name in names))
        for point in layers
        for row in rows
        if (row["where"], row["point"]) == ("layer", point)
    ]
    return table(("tokens", "after layer", "number", "1 %", "25 %", "median", "75 %", "99 %", "largest"), lines)


def clusters() -> str:
    """Means over the clips with their intervals."""
    rows = read("clusters")
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    titles = {
        "pieces": "pieces of a cluster",
        "whole": "clusters that are one piece (fraction)",
        "largest": "tokens in the largest piece (fraction)",
        "tokens": "tokens of a cluster",
    }
    lines = []
    for name, title in titles.items():
        values = [[float(row[name]) for row in rows if row["variant"] == variant] for variant in variants]
        difference = [one - other for one, other in zip(*values, strict=True)]
        lines.append((title, *(interval(each) for each in (*values, difference))))
    return table(("", *variants, "difference"), lines)


def decay() -> str:
    """Similarity at some distances."""
    rows = read("decay")
    lines = []
    for axis, distances in (("time", (1, 5, 30, 300)), ("space", (1, 4, 13, 27))):
        for base in dict.fromkeys(row["base"] for row in rows if row["axis"] == axis):
            found = {
                float(row["distance"]): float(row["similarity"])
                for row in rows
                if row["base"] == base and row["axis"] == axis
            }
            unit = "s" if axis == "time" else "r"
            lines.append((axis, base, *(f"{found[distance]:.3f} ({distance} {unit})" for distance in distances)))
    return table(("axis (s: seconds, r: rows)", "base", "near", "", "", "far"), lines)


def compare() -> str:
    """Tokens that are kept, merged and dropped by each method."""
    rows = read("compare")
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        of = [row for row in rows if row["method"] == method]
        totals = [str(sum(int(row[name]) for row in of)) for name in ("kept", "merged", "dropped")]
        frames = sorted(int(row["kept"]) for row in of)
        lines.append((f"`{method}`", of[0]["saliency"], *totals, f"{frames[0]} to {frames[-1]}"))
    return table(("method", "saliency", "kept", "merged", "dropped", "kept in a frame"), lines)


def interval(values: Sequence[float]) -> str:
    """A mean over clips with its 95 % interval."""
    estimate = Bootstrap(range(len(values))).mean(values)
    assert estimate.low is not None
    assert estimate.high is not None
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def percent(value: float) -> str:
    """A fraction in percent."""
    return f"{100 * value:.1f} %"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, whose first column is text."""
    rule = "|---|" + "--:|" * (len(head) - 1)
    return "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])


TABLES = {
    "attention": attention, "distribution": distribution, "norms": norms, "clusters": clusters, "decay": decay,
    "compare": compare,
}  # fmt: skip


def filled(text: str) -> str:
    """The page with the tables between `<!-- begin NAME -->` and `<!-- end NAME -->`."""
    for name, make in TABLES.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"{PAGE} needs exactly one pair of markers {begin} ... {end}")
        text = f"{text[: text.index(begin)]}{begin}\n{make()}\n{text[text.index(end) :]}"
    return text


def main(arguments: Sequence[str]) -> int:
    """Draw the figures and fill the page."""
    names = [name for name in arguments if name != "--tables"]
    if unknown := set(names) - set(NAMES):
        raise SystemExit(f"no figure {unknown.pop()}: choose from {', '.join(NAMES)}")
    if "--tables" not in arguments:
        start = perf_counter()
        for name in names or NAMES:
            begin = perf_counter()
            if status := tangovlm(["inspect", name, "--output-dir", str(FOLDER)]):
                return status
            print(f"{name}: {perf_counter() - begin:.0f} s")
        print(f"all: {perf_counter() - start:.0f} s")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
