"""Options that several commands share: each has one type and one help text."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Saliency(StrEnum):
    """How attention in the vision encoder is turned into a saliency per token."""

    P_ATTN = "p-attn"
    ATTN = "attn"
    MEAN_QUERY = "mean-query"


class Positions(StrEnum):
    """Position ids of the kept tokens."""

    CONTIGUOUS = "contiguous"
    ORIGINAL = "original"


class Newlines(StrEnum):
    """Whether newline tokens count towards the retention; see `tangovlm.attach`."""

    KEPT = "kept"
    COUNTED = "counted"


class Encode(StrEnum):
    """Which frames the vision encoder runs on; see `tangovlm.attach`."""

    ALL = "all"
    CHANGED = "changed"


class Seek(StrEnum):
    """Which frames are taken; see `tangovlm.video.decode`."""

    EXACT = "exact"
    KEYFRAME = "keyframe"
    AUTO = "auto"


class Dtype(StrEnum):
    """Number formats of weights and features."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


Model = Annotated[
    str | None,
    typer.Option(help="Directory or Hugging Face id of the model.", show_default="the embedded model"),
]
_METHOD_HELP = "Pruning method, or a pair such as tango+tango-fastv; `tangovlm methods` lists them."
Method = Annotated[str, typer.Option(help=_METHOD_HELP)]
OptionalMethod = Annotated[str | None, typer.Option(help=_METHOD_HELP, show_default="tango")]
"""None if the option is absent, which differs from naming the default."""
Adaptive = Annotated[
    bool,
    typer.Option(
        "--adaptive",
        help="Let the content of a video decide how many tokens are kept, with --retention as the most. For methods "
        "that can, see `tangovlm methods`.",
    ),
]
PositionsName = Annotated[
    Positions | None,
    typer.Option(
        "--positions",
        help="Position ids of the kept tokens: consecutive, or those of the unpruned prompt.",
        show_default="the method's own, or as the model requires",
    ),
]
_RETENTION_HELP = "Fraction of the visual tokens to keep, in (0, 1]."
Retention = Annotated[float, typer.Option(help=_RETENTION_HELP)]
OptionalRetention = Annotated[float | None, typer.Option(help=_RETENTION_HELP, show_default="0.1")]
"""None if the option is absent, which differs from giving the default."""
Retentions = Annotated[
    list[float] | None,
    typer.Option(help=f"{_RETENTION_HELP} Repeatable.", show_default="1, 0.2, 0.15 and 0.1"),
]
Frames = Annotated[
    int | None,
    typer.Option(help="Number of frames to sample from a video.", show_default="the model's own number"),
]
Fps = Annotated[
    float | None,
    typer.Option(
        help="Instead of --frames: frames to sample per second of video, at most --max-frames.",
        show_default=False,
    ),
]
EncodeName = Annotated[
    Encode,
    typer.Option(
        "--encode",
        help="Run the vision encoder on all frames, or only on those that differ from the last one that it ran on.",
    ),
]
MaxFrames = Annotated[
    int | None,
    typer.Option(help="With --fps: sample at most so many frames, uniformly if there are more.", show_default="768"),
]
Start = Annotated[
    str | None,
    typer.Option(
        help="Start of the part of the video to take: seconds from its beginning, or h:mm:ss.",
        show_default="its beginning",
    ),
]
End = Annotated[
    str | None, typer.Option(help="End of that part: seconds from the beginning, or h:mm:ss.", show_default="its end")
]
Stream = Annotated[
    int | None,
    typer.Option(
        help="Index of the video stream in a file that has several, counted from 0 among all its streams.",
        show_default="the moving picture that FFmpeg prefers",
    ),
]
SeekName = Annotated[
    Seek | None,
    typer.Option(
        "--seek",
        help="Take the frames at their exact times; the nearest keyframes, which is faster in long videos; or "
        "keyframes only where they are dense.",
        show_default="exact",
    ),
]
SaliencyName = Annotated[
    Saliency | None,
    typer.Option("--saliency", help="Signal that ranks the tokens.", show_default="the method's own"),
]
HeadWeights = Annotated[
    str | None,
    typer.Option(
        help="Checkpoint (directory or Hugging Face id) with the attention-pooling head that p-attn needs.",
        show_default="the model's own, else SigLIP's",
    ),
]
DeviceName = Annotated[
    str | None,
    typer.Option("--device", help="Device to run on, such as cpu or cuda.", show_default="cuda if available, else cpu"),
]
DtypeName = Annotated[
    Dtype | None,
    typer.Option(
        "--dtype", help="Number format of the weights.", show_default="float32 on the CPU, else the checkpoint's"
    ),
]
ChunkFrames = Annotated[
    int | None,
    typer.Option(
        help="Maximum number of frames that the vision encoder processes at a time.",
        show_default="as many as fit into 512 MiB of CPU memory or 1/16 of GPU memory; 8 while `ask` decodes on CUDA",
    ),
]
MaxFramePixels = Annotated[
    int | None,
    typer.Option(
        help="Maximum number of pixels of a frame (height times width; 448 x 448 is 200704), for models that accept "
        "any frame size.",
        show_default="the checkpoint's",
    ),
]
MaxNewTokens = Annotated[int, typer.Option(help="Maximum length of an answer, in tokens.")]
Threads = Annotated[int | None, typer.Option(help="Number of CPU threads.", show_default="PyTorch's own choice")]
Out = Annotated[Path | None, typer.Option(help="File of JSON lines to append the rows to.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON last; everything else goes to stderr.")]
