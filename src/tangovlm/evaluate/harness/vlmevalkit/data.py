"""Data presets for VLMEvalKit: its own data set classes with any number of frames, on data that lie anywhere.

VLMEvalKit has presets of 8 and 64 frames, the paper runs 32 and 64. A preset here is called as VLMEvalKit calls its
own, `Video-MME_32frame`; the class behind it is VLMEvalKit's, which builds the prompt and judges the answers. It hands
over the path of the video and the number of frames, so that frames are decoded by `tangovlm.video` alone.
"""

import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError

from .model import Stopped

PAPER_FRAMES = (32, 64)
_PRESET = re.compile(r"(?P<name>.+)_(?P<frames>[1-9]\d*)frame")


@dataclass(frozen=True)
class DataSet:
    """One of the paper's data sets as VLMEvalKit has it.

    Parameters
    ----------
    cls: name of VLMEvalKit's class.
    repository: where VLMEvalKit downloads it from, as `hf download --repo-type dataset` takes it.
    video: gives a question's video, relative to the directory of the TSV file.
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
"""Those whose TSV file and videos may also lie in a directory of the user's: `DIR/<name>/<name>.tsv`."""
PAPER_PRESETS = tuple(f"{name}_{frames}frame" for name in DATA_SETS for frames in PAPER_FRAMES)
_INSTEAD = {
    "MLVU": "its open-ended half asks GPT-4 for a judgement; the paper's numbers are of the other half, MLVU_MCQ",
}
_MOVIEPY = "MVBench"
"""VLMEvalKit cuts the clips of this one with MoviePy 1; those of MVBench_MP4 are cut already."""


def preset(name: str, frames: int | None) -> str:
    """The name of a preset, where the number of frames may be given beside it.

    Raises
    ------
    InputError: two numbers of frames, or none.

    Example
    -------
    >>> preset("Video-MME", 32), preset("Video-MME_32frame", None)
    ('Video-MME_32frame', 'Video-MME_32frame')
    """
    match = _PRESET.fullmatch(name)
    if match is None:
        if frames is None:
            raise InputError(f"--data {name} has no number of frames: name {name}_32frame, or give --frames")
        return f"{name}_{frames}frame"
    if frames is not None and frames != int(match["frames"]):
        raise InputError(f"--frames is {frames}, and --data {name} has {match['frames']}: leave one of them out")
    return name


def fingerprints(presets: Iterable[str], roots: Iterable[Path]) -> dict[str, str]:
    """MD5 of the TSV file of each preset that lies in a directory of the user's; the others are VLMEvalKit's own."""
    found = {}
    for name in presets:
        if file := _local(_split(name)[0], roots):
            found[name] = hashlib.md5(file.read_bytes()).hexdigest()
    return found


def check(presets: Iterable[str], known: Mapping[str, Any], roots: Iterable[Path]) -> None:
    """See that presets can be built.

    Parameters
    ----------
    known: VLMEvalKit's own presets.
    roots: see `builder`.

    Raises
    ------
    InputError: an unknown preset, one that takes frames otherwise, or local data without their videos.
    """
    for name in presets:
        base, _ = _split(name)
        if base in _INSTEAD:
            raise InputError(f"--data {name} is not run here: {_INSTEAD[base]}; name {name.replace(base, 'MLVU_MCQ')}")
        if base == _MOVIEPY and not _has_moviepy():
            raise InputError(
                f"--data {name}: VLMEvalKit cuts these clips with MoviePy 1: pip install moviepy==1.0.3, or name "
                f"{name.replace(base, 'MVBench_MP4')}, the same questions about clips that are cut already"
            )
        if base not in DATA_SETS and base != _MOVIEPY and name not in known:
            raise InputError(
                f"--data {name} is no preset: name one such as {', '.join(PAPER_PRESETS[::2])} (with any number of "
                "frames), or one of VLMEvalKit's `supported_video_datasets` with a number of frames"
            )
        if file := _local(base, roots):
            _check_videos(base, file)


def builder(name: str, known: Mapping[str, Any], roots: Iterable[Path], limit: int | None = None) -> Callable[..., Any]:
    """What `supported_video_datasets` holds under the name: a function that makes the data set.

    It takes and ignores keyword arguments: ms-vlmeval 0.0.20 calls a preset with all options of its command line,
    which the class would refuse.

    Parameters
    ----------
    known: VLMEvalKit's own presets.
    roots: directories that may hold `<data set>/<data set>.tsv` with its videos; others are VLMEvalKit's to find in
        the cache of the Hugging Face hub, or to download.
    limit: only the first so many questions.

    Raises
    ------
    Stopped: when called, if the data are missing.
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
        before = (_Undecoded, _Questions) if base == "LongVideoBench" else (_Questions,)
        own = {"preset": name, "local": _local(base, roots), "limit": limit}
        cls = type(parent.__name__, (*before, parent), own)
        try:
            return cls(**arguments)
        except Exception as error:
            raise Stopped(InputError(_missing(base, roots, error))) from error

    return build


def _missing(base: str, roots: Iterable[Path], error: Exception) -> str:
    """What to say of data that are neither here nor to be had."""
    from vlmeval.smp.file import HFCacheRoot

    said = f"{type(error).__name__}: {str(error)[:200]}"
    if base not in DATA_SETS:
        return f"the data set {base} is missing, or VLMEvalKit cannot open it ({said}); it looks in {HFCacheRoot()}"
    local = " and ".join(str(root / base / f"{base}.tsv") for root in roots)
    return (
        f"the data set {base} is missing, or VLMEvalKit cannot open it ({said}): it is looked for as {local} and in "
        f"{HFCacheRoot()}; get it with: hf download --repo-type dataset {DATA_SETS[base].repository}"
    )


class _Questions:
    """Before one of VLMEvalKit's data set classes: where the data lie, how many questions, who decodes.

    Attributes
    ----------
    preset: its name.
    local: the TSV file in a directory of the user's; None for VLMEvalKit's own way to find it.
    limit: only the first so many questions.
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


class _Undecoded:
    """LongVideoBench decodes a video with decord and drops the frames where the model takes the video itself."""

    def save_video_frames(self, *_arguments: Any, **_keywords: Any) -> tuple[list[Any], list[int], dict[str, float]]:
        return [], [], {"fps": 1.0}


def _split(name: str) -> tuple[str, int]:
    match = _PRESET.fullmatch(name)
    if match is None:
        raise InputError(f"--data {name} has no number of frames: name a preset such as Video-MME_32frame")
    return match["name"], int(match["frames"])


def _local(base: str, roots: Iterable[Path]) -> Path | None:
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
    absent = [video for video in videos if not (file.parent / video).is_file()]
    if absent:
        raise InputError(f"{len(absent)} of {len(videos)} videos of {file} are missing, the first is {absent[0]}")


def _has_moviepy() -> bool:
    try:
        return importlib.util.find_spec("moviepy.editor") is not None
    except ModuleNotFoundError:
        return False
