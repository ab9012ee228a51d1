"""The tokenizer of the embedded model: byte-level BPE in which each word of the synthetic world is one token."""

from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .synthetic.world import LENGTH
from .synthetic.worlds import FIRST, World

PAD, END, IMAGE, VIDEO, ANSWER = "<|endoftext|>", "<|im_end|>", "<image>", "<video>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<video>{% elif part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}"
    "{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}<|im_end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_CLIPS_OF_TEXT = 400


def build_tokenizer(of: World = FIRST) -> PreTrainedTokenizerFast:
    """Train the tokenizer on a fixed set of sentences about a world."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    # Digits are separate tokens, so that 47 is read as 4 and 7. A leading space is always added, so that a word is the
    # same token in every position.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=[PAD, END, IMAGE, VIDEO, ANSWER],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(of), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE, "video_token": VIDEO, "answer_token": ANSWER},
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _sentences(of: World) -> Iterator[str]:
    for index in range(_CLIPS_OF_TEXT):
        rng = np.random.default_rng([7, index])
        clip = of.draw_clip(rng, LENGTH, None)
        for question in of.questions(clip, rng, None) + of.descriptions(clip, rng, range(len(clip.things))):
            yield question.text
            yield question.answer
            yield from question.choices
