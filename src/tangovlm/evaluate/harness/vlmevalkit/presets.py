"""Data presets for VLMEvalKit: its own data set classes with any number of frames, and with data in any directory.

VLMEvalKit has presets of 8 and 64 frames, but the paper uses 32 and 64. A preset here is named like VLMEvalKit's own,
`Video-MME_32frame`. Its class is derived from VLMEvalKit's, which builds the prompt and judges the answers. It passes
the path of the video and the number of frames to the model, so that only `tangovlm.video` decodes frames.
"""

import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError

from .model import StopRun

PAPER_FRAMES = (32, 64)
_PRESET = re.compile(r"(?P<name>.+)_(?P<frames>[1-9]\d*)frame")


@dataclass(frozen=True)
class DataSet:
    """One of the paper's data sets in VLMEvalKit.

    Parameters
    ----------
    cls: name of VLMEvalKit's class.
    repository: arguments of `hf download --repo-type dataset` that download it.
    video: returns the path of a question's video, relative to the directory of the TSV file.
    """

    cls: str
    repository: str
    video: Callable[[Mapping[str, Any]], str]


def _prefixed(row: Mapping[str, Any]) -> str:
    return f"{row['prefix']}/{row['video']}"


DATA_SETS = {
    "Video-MME": DataSet("VideoMME", "lmms-lab/Video-MME", lambda row: f"video/{row['video']}.mp4"),
    "MVBench_MP4": DataSet("MVBench_MP4", "OpenGVLab/MVBench --revision video", _prefixed),
    "LongVideoBench": DataSet("LongVideoBench", "longvideobench/LongVideoBench", lambda row: str(row["video_path"])),
    "MLVU_MCQ": DataSet("MLVU_MCQ", "MLVU/MVLU", _prefixed),
}
"""Data sets that may also be in a directory chosen by the user, as `DIR/<name>/<name>.tsv` with its videos."""
PAPER_PRESETS = tuple(f"{name}_{frames}frame" for name in DATA_SETS for frames in PAPER_FRAMES)
_REFUSED = {
    "MLVU": "its open-ended half needs GPT-4 as a judge; the paper's numbers are of the other half, MLVU_MCQ",
}
_MOVIEPY = "MVBench"
"""VLMEvalKit cuts the clips of this data set with MoviePy 1; those of MVBench_MP4 are already cut."""


def preset_name(name: str, frames: int | None) -> str:
    """The name of a preset, whose number of frames may be given separately.

    Raises
    ------
    InputError: two numbers of frames, or none.

    Example
    -------
    >>> preset_name("Video-MME", 32), preset_name("Video-MME_32frame", None)
    ('Video-MME_32frame', 'Video-MME_32frame')
    """
    match = _PRESET.fullmatch(name)
    if match is None:
        if frames is None:
            raise InputError(f"--data {name} has no number of frames: name {name}_32frame, or give --frames")
        return f"{name}_{frames}frame"
    if frames is not None and frames != int(match["frames"]):
        raise InputError(f"--frames is {frames}, but --data {name} has {match['frames']}: leave one of them out")
    return name


def fingerprints(presets: Iterable[str], roots: Iterable[Path]) -> dict[str, str]:
    """MD5 of the TSV file of each preset whose data set is in one of the user's directories."""
    digests = {}
    for name in presets:
        if file := _local_file(_split(name)[0], roots):
            digests[name] = hashlib.md5(file.read_bytes()).hexdigest()
    return digests


def check_presets(presets: Iterable[str], known: Mapping[str, Any], roots: Iterable[Path]) -> None:
    """Check that presets can be built.

    Parameters
    ----------
    known: VLMEvalKit's own presets.
    roots: see `preset_builder`.

    Raises
    ------
    InputError: an unknown preset, one without a number of frames, or local data with missing videos.
    """
    for name in presets:
        base, _ = _split(name)
        if base in _REFUSED:
            raise InputError(f"--data {name} is not supported: {_REFUSED[base]}; name {name.replace(base, 'MLVU_MCQ')}")
        if base == _MOVIEPY and not _has_moviepy():
            raise InputError(
                f"--data {name}: VLMEvalKit cuts these clips with MoviePy 1: pip install moviepy==1.0.3, or name "
                f"{name.replace(base, 'MVBench_MP4')}, the same questions about clips that are already cut"
            )
        if base not in DATA_SETS and base != _MOVIEPY and name not in known:
            raise InputError(
                f"--data {name} is no preset: name one such as {', '.join(PAPER_PRESETS[::2])} (with any number of "
                "frames), or one of VLMEvalKit's `supported_video_datasets` with a number of frames"
            )
        if file := _local_file(base, roots):
            _check_videos(base, file)


def preset_builder(
    name: str, known: Mapping[str, Any], roots: Iterable[Path], limit: int | None = None
) -> Callable[..., Any]:
    """The entry of `supported_video_datasets` for a preset: a function that constructs the data set.

    The function ignores keyword arguments: ms-vlmeval 0.0.20 passes all options of its command line, which the class
    would refuse.

    Parameters
    ----------
    known: VLMEvalKit's own presets.
    roots: directories that may contain `<data set>/<data set>.tsv` with its videos. VLMEvalKit looks for other data
        sets in the cache of the Hugging Face hub, or downloads them.
    limit: number of questions; None for all.

    Raises
    ------
    StopRun: when the function is called, if the data are missing.
    """
    base, frames = _split(name)
    roots = tuple(roots)

    def build(**_options: Any) -> Any:
        import vlmeval.dataset as vlmeval_data

        if base in DATA_SETS or base == _MOVIEPY:
            data_set = DATA_SETS.get(base)
            parent = getattr(vlmeval_data, data_set.cls if data_set else base)
            arguments = {"dataset": base, "nframe": frames}
        else:
            parent, arguments = known[name].func, dict(known[name].keywords)
        mixins = (_NoDecoding, _PresetMixin) if base == "LongVideoBench" else (_PresetMixin,)
        attributes = {"preset": name, "local": _local_file(base, roots), "limit": limit}
        cls = type(parent.__name__, (*mixins, parent), attributes)
        try:
            return cls(**arguments)
        except Exception as error:
            raise StopRun(InputError(_missing(base, roots, error))) from error

    return build


def _missing(base: str, roots: Iterable[Path], error: Exception) -> str:
    """The message for a data set that cannot be opened."""
    from vlmeval.smp.file import HFCacheRoot

    reason = f"{type(error).__name__}: {str(error)[:200]}"
    if base not in DATA_SETS:
        return f"the data set {base} is missing, or VLMEvalKit cannot open it ({reason}); it looks in {HFCacheRoot()}"
    local = " and ".join(str(root / base / f"{base}.tsv") for root in roots)
    return (
        f"the data set {base} is missing, or VLMEvalKit cannot open it ({reason}): it is expected as {local} or in "
        f"{HFCacheRoot()}; download it with: hf download --repo-type dataset {DATA_SETS[base].repository}"
    )


class _PresetMixin:
    """Overrides of VLMEvalKit's data set classes: location of the data, number of questions, undecoded videos.

    Attributes
    ----------
    preset: name of the preset.
    local: the TSV file in one of the user's directories; None to let VLMEvalKit find it.
    limit: number of questions; None for all.
    """

    preset: str
    local: Path | None
    limit: int | None
    data: Any
    nframe: int

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if self.limit is not None:
            self.data = self.data.iloc[: self.limit]

    def prepare_dataset(self, *arguments: Any, **keywords: Any) -> dict[str, str]:
        if self.local is None:
            return super().prepare_dataset(*arguments, **keywords)  # type: ignore[misc]
        return {"root": str(self.local.parent), "data_file": str(self.local)}

    def build_prompt(self, line: Any, video_llm: bool) -> list[dict[str, Any]]:
        message = super().build_prompt(line, video_llm)  # type: ignore[misc]
        index = self.data.iloc[line]["index"] if isinstance(line, int) else line["index"]
        for part in message:
            if part["type"] == "video":
                part |= {"frames": self.nframe, "task": self.preset, "doc": str(index)}
        return message


class _NoDecoding:
    """Skips LongVideoBench's decoding with decord, whose frames are not used if the model reads the video itself."""

    def save_video_frames(self, *_arguments: Any, **_keywords: Any) -> tuple[list[Any], list[int], dict[str, float]]:
        return [], [], {"fps": 1.0}


def _split(name: str) -> tuple[str, int]:
    match = _PRESET.fullmatch(name)
    if match is None:
        raise InputError(f"--data {name} has no number of frames: name a preset such as Video-MME_32frame")
    return match["name"], int(match["frames"])


def _local_file(base: str, roots: Iterable[Path]) -> Path | None:
    if base not in DATA_SETS:
        return None
    files = (root / base / f"{base}.tsv" for root in roots)
    return next((file for file in files if file.is_file()), None)


def _check_videos(base: str, file: Path) -> None:
    import csv

    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    try:
        videos = dict.fromkeys(DATA_SETS[base].video(row) for row in rows)
    except KeyError as error:
        raise InputError(f"{file} has no column {error}: it is not the TSV file that VLMEvalKit makes") from None
    missing = [video for video in videos if not (file.parent / video).is_file()]
    if missing:
        raise InputError(f"{len(missing)} of {len(videos)} videos of {file} are missing, the first is {missing[0]}")


def _has_moviepy() -> bool:
    try:
        return importlib.util.find_spec("moviepy.editor") is not None
    except ModuleNotFoundError:
        return False
