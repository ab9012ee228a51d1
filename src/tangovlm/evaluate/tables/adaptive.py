"""Counts that follow the content, against fixed counts of the same method at equal mean tokens."""

from collections.abc import Iterator, Mapping

from ..runs import Run, build_run, percent
from .options import Options

_FIXED = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.10, 0.15, 0.20, 0.30)
"""Fixed retentions: close enough to interpolate between them, and around the mean tokens of the adaptive counts."""
_SETTINGS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "milonga": ("floor", (0.6, 0.4, 0.3, 0.2, 0.1)),
    "unicomp": ("token_uniqueness", (0.4, 0.3, 0.2, 0.1)),
}
"""By method: the field that decides how much content is worth a token, and its values, from few to many tokens."""


def adaptive(retention: float, options: Options) -> Iterator[Run]:
    """For each method fixed counts, and adaptive ones of at most `retention`."""
    most = "no upper bound" if retention == 1 else f"at most {percent(retention)}"
    for name in options.methods or _SETTINGS:
        for fixed in _FIXED:
            yield build_run(
                name, fixed, label=f"{name}, {percent(fixed)}", group="fixed counts", series=f"{name}, fixed"
            )
    for name in options.methods or _SETTINGS:
        field, values = _SETTINGS.get(name, ("", ()))
        changes = [(f"{name}, {field} {value:g}", {field: value}) for value in values] or [(name, {})]
        for label, params in changes:
            yield build_run(
                name,
                retention,
                label=label,
                group=f"adaptive counts, {most}",
                series=f"{name}, adaptive, {most}",
                adaptive=True,
                **params,
            )
