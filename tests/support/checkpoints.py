"""A tiny random checkpoint in the stock format, and a short clip."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tangovlm.selfcheck.twins.common.parts import FIRST_WORD, IMAGE, PAD, VIDEO, VOCABULARY
from tests.support.tiny_models import make_model

SIDE = 56
TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] if c.type == 'video' %}<video>{% endfor %}"
    "{% for c in m['content'] if c.type == 'text' %} {{ c.text }}{% endfor %}{% endfor %} w50"
)


def write_checkpoint(folder: Path, *, frames: int = 4, head: bool = True) -> Any:
    """Save a model, its tokenizer (words w10 to w63) and its preprocessor config; return the model."""
    model = make_model(head=head)
    model.save_pretrained(folder)
    vocabulary = {"<pad>": PAD, "<image>": IMAGE, "<video>": VIDEO, "<unk>": 3}
    vocabulary |= {f"<{number}>": number for number in range(4, FIRST_WORD)}
    vocabulary |= {f"w{number}": number for number in range(FIRST_WORD, VOCABULARY)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<video>"]})
    tokenizer.save_pretrained(folder)
    config = {
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "num_frames": frames,
    }
    (folder / "video_preprocessor_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return model


def write_clip(path: Path, frames: int = 12) -> Path:
    """A square that moves over a gradient, at five frames per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(frames):
            picture = np.tile(np.linspace(0, 200, 96, dtype=np.uint8)[None, :, None], (64, 1, 3))
            picture[20:40, 5 * number : 5 * number + 20] = (250, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
