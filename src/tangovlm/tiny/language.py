"""Stage 3 of the recipe: train the language model, the last layer of the projector and the newline token on questions.

Many questions follow one clip; a block mask lets each attend to the clip and to itself. The loss is the cross-entropy
over the whole vocabulary on the tokens of the answers.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer, DynamicCache, LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from ..models.common.transformers_compat import Arg, cache_for
from .cache import EncodedClips, load_clips
from .deepen import deepen
from .lessons import Lesson, Lessons, Writer, pack
from .loop import Progress, batches, save_checkpoint
from .model import build, is_checkpoint, load_checkpoint, pick_device, visual_tokens
from .optimizer import warm_up_then_decay
from .recipe import Recipe
from .tokenizer import END, IMAGE, PAD, VIDEO, build_tokenizer
from .tower import load_tower

_RATE = 1e-3
_TOKENS_A_STEP = 1300
_END_WEIGHT = 0.3
_RMS = 0.5
"""Root mean square of word embeddings and visual tokens at initialization."""
_FINAL_NORM = 0.1
_CHECKPOINT_EVERY = 250
_WARM_UP = 100
_TOKENIZER = "tokenizer"
_PROBES_A_KIND = 40
_PROBED_TOKENS = 1024


def build_language(
    run: Path, tokenizer: PreTrainedTokenizerFast, features: Tensor, earlier: Path | None, recipe: Recipe
) -> LlavaOnevisionForConditionalGeneration:
    """The model with the trained tower, and with the language model of `earlier` or an untrained one.

    Untrained matrices are initialized with a standard deviation of 1/sqrt(fan_in): the usual 0.02 delays learning by
    hundreds of steps at this width. The last layer of the projector centres the visual tokens and scales them to the
    size of the word embeddings.
    """
    torch.manual_seed(1)
    model = _blank(tokenizer, recipe.first_layers, recipe.positions)
    trained = load_tower(run).model
    model.model.vision_tower.load_state_dict(trained.vision_tower.state_dict())
    projector = model.model.multi_modal_projector
    projector.load_state_dict(trained.multi_modal_projector.state_dict())
    with torch.no_grad():
        if earlier is None:
            _scale_language(model)
            _scale_projector(model, features)
        else:
            _copy_trained(model, tokenizer, earlier)
    return model


def load_language(run: Path) -> LlavaOnevisionForConditionalGeneration:
    """The trained model from `run`/language.pt, for the tokenizer in the same directory."""
    state = torch.load(run / "language.pt", map_location="cpu", weights_only=True)
    tokenizer = AutoTokenizer.from_pretrained(run / _TOKENIZER, local_files_only=True)
    model = _blank(tokenizer, state["layers"], state["positions"])
    model.load_state_dict(state["model"])
    return model


def _blank(tokenizer: PreTrainedTokenizerFast, layers: int, positions: int) -> LlavaOnevisionForConditionalGeneration:
    special = {name: int(tokenizer.convert_tokens_to_ids(name)) for name in (END, PAD, IMAGE, VIDEO)}
    return build(len(tokenizer), special[END], special[PAD], special[IMAGE], special[VIDEO], layers, positions)


def _copy_trained(
    model: LlavaOnevisionForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, earlier: Path
) -> None:
    """Copy what the language stage trained in a run or a checkpoint; tokens are matched by their text."""
    checkpoint = is_checkpoint(earlier)
    core, trained = model.model, (load_checkpoint if checkpoint else load_language)(earlier).model
    words = earlier if checkpoint else earlier / _TOKENIZER
    old_words = AutoTokenizer.from_pretrained(words, local_files_only=True).get_vocab()
    shared = [(new, old_words[word]) for word, new in tokenizer.get_vocab().items() if word in old_words]
    new_ids, old_ids = (torch.tensor(ids) for ids in zip(*shared, strict=True))
    table = trained.language_model.embed_tokens.weight
    embedding = torch.empty_like(core.language_model.embed_tokens.weight).normal_(0, _RMS)
    embedding[new_ids] = table[old_ids]
    state = trained.language_model.state_dict() | {"embed_tokens.weight": embedding}
    core.language_model.load_state_dict(state)
    core.multi_modal_projector.linear_2.load_state_dict(trained.multi_modal_projector.linear_2.state_dict())
    core.image_newline.copy_(trained.image_newline)


def _scale_language(model: LlavaOnevisionForConditionalGeneration) -> None:
    language = model.model.language_model
    for name, param in language.layers.named_parameters():
        if name.endswith("bias"):
            param.zero_()
        elif param.ndim == 2:
            std = param.shape[1] ** -0.5
            into_residual = "o_proj" in name or "down_proj" in name
            param.normal_(0, std / (2 * len(language.layers)) ** 0.5 if into_residual else std)
    language.embed_tokens.weight.normal_(0, _RMS)
    model.model.image_newline.normal_(0, _RMS)
    language.norm.weight.fill_(_FINAL_NORM)


def _scale_projector(model: LlavaOnevisionForConditionalGeneration, features: Tensor) -> None:
    tokens = visual_tokens(model, features.float()).flatten(0, -2)
    last = model.model.multi_modal_projector.linear_2
    last.bias -= tokens.mean(0)
    scale = _RMS / (tokens - tokens.mean(0)).square().mean().sqrt()
    last.weight *= scale
    last.bias *= scale


def answer_logits(model: LlavaOnevisionForConditionalGeneration, lesson: Lesson) -> tuple[Tensor, Tensor]:
    """Logits and targets of the tokens of the answers only, in the order of the text of the batch.

    The visual tokens are computed first, since their causal mask need not be stored and halves the work; the text
    continues from their keys and values.
    """
    device = model.device
    core, features = model.model, lesson.features.to(device)
    batch, visual = features.shape[:2]
    newline = core.image_newline.expand(batch, 1, -1)
    words = core.language_model.embed_tokens(lesson.text.to(device))
    language, positions = core.language_model, lesson.positions.to(device)
    cache = DynamicCache(config=language.config)
    video = {Arg.EMBEDS: visual_tokens(model, features.float()), Arg.POSITIONS: positions[:, :visual]}
    language(**video, **{Arg.USE_CACHE: True}, **cache_for(language.forward, cache))
    text = {Arg.EMBEDS: torch.cat([newline, words], 1), Arg.POSITIONS: positions[:, visual:]}
    mask = {Arg.MASK: _mask(lesson, visual).to(device), Arg.USE_CACHE: True}
    states = language(**text, **mask, **cache_for(language.forward, cache)).last_hidden_state
    targets = lesson.targets.to(device)
    return model.lm_head(states[:, 1:][targets >= 0]), targets[targets >= 0]


def _mask(lesson: Lesson, visual: int) -> Tensor:
    """Additive mask (B, 1, 1 + N, K + 1 + N) of newline and text: causal, no padding, and only the own question."""
    batch, words = lesson.text.shape
    attends = torch.ones(1 + words, visual + 1 + words, dtype=torch.bool).tril(visual).repeat(batch, 1, 1)
    attends[:, 1:, visual + 1 :] &= lesson.block[:, :, None] == lesson.block[:, None, :]
    attends[:, :, :visual] &= (torch.arange(visual) < lesson.lengths[:, None])[:, None]
    attends[:, :, visual:] |= torch.eye(1 + words, dtype=torch.bool)
    return torch.zeros(attends.shape)[:, None].masked_fill_(~attends[:, None], torch.finfo(torch.float32).min)


def train_language(
    run: Path,
    recipe: Recipe,
    steps: int | None = None,
    clips: int | None = None,
    workers: int = 1,
    earlier: Path | None = None,
) -> None:
    """Train, or resume training, and save to `run`/language.pt.

    Parameters
    ----------
    steps, clips: None for those of the recipe.
    earlier: run or checkpoint directory whose trained language model is the starting point, with a lower learning rate
        and without the early part of the curriculum, see the recipe.
    """
    steps = recipe.language_steps if steps is None else steps
    device, tokenizer = pick_device(), build_tokenizer(recipe.world)
    tokenizer.save_pretrained(run / _TOKENIZER)
    writer = Writer(tokenizer)
    encoded = load_clips(run, "train", recipe.clips if clips is None else clips, recipe)
    held_out = load_clips(run, "held-out", recipe.held_out_clips, recipe)
    model = build_language(run, tokenizer, torch.cat(encoded.features[:32]), earlier, recipe).to(device)
    grow, checkpoint, step = int(recipe.deepen_at * steps), run / "language.pt", 0
    state = torch.load(checkpoint, map_location=device, weights_only=True) if checkpoint.exists() else None
    if state is not None:
        step = state["step"]
        if step > grow:
            model = _deeper(model, tokenizer, recipe)
        model.load_state_dict(state["model"])
    params, optimizer = _optimizer(model)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
    peak, begin = (_RATE, 0.0) if earlier is None else (_RATE * recipe.warm_rate, recipe.warm_begin)
    lessons = Lessons(encoded, writer, steps, step, _TOKENS_A_STEP, begin=begin)
    with Progress("language", steps, step) as progress:
        for lesson in batches(lessons, None, workers):
            if step == grow:
                model = _deeper(model, tokenizer, recipe)
                params, optimizer = _optimizer(model)
            for group in optimizer.param_groups:
                warm_up = min(1.0, (step - grow + 1) / _WARM_UP) if step >= grow else 1.0
                group["lr"] = peak * warm_up * warm_up_then_decay(step, steps, _WARM_UP, 0.35)
            logits, targets = answer_logits(model, lesson)
            weight = torch.where(targets == writer.end, _END_WEIGHT, 1.0)
            loss = (F.cross_entropy(logits, targets, reduction="none") * weight).sum() / weight.sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            step += 1
            progress.step({"loss": loss.item()})
            if step % _CHECKPOINT_EVERY == 0 or step == steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                sizes = {"layers": len(model.model.language_model.layers), "positions": recipe.positions}
                save_checkpoint(state | sizes, checkpoint)
                progress.note(probe(model, held_out, writer, _PROBED_TOKENS))


def _deeper(
    model: LlavaOnevisionForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> LlavaOnevisionForConditionalGeneration:
    """The model with all layers of the recipe; it computes the same."""
    return deepen(model, _blank(tokenizer, recipe.layers, recipe.positions)).to(model.device)


def _optimizer(model: LlavaOnevisionForConditionalGeneration) -> tuple[list[nn.Parameter], torch.optim.AdamW]:
    """What is trained, and its optimizer."""
    language, last = model.model.language_model, model.model.multi_modal_projector.linear_2
    params = [model.model.image_newline, *language.parameters(), *last.parameters()]
    embedding = language.embed_tokens.weight
    decayed = [p for p in params if p.ndim == 2 and p is not embedding]
    rest = [p for p in params if p.ndim != 2 or p is embedding]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    return params, torch.optim.AdamW(groups, lr=_RATE, betas=(0.9, 0.98), fused=True)


@torch.no_grad()
def probe(
    model: LlavaOnevisionForConditionalGeneration, held_out: EncodedClips, writer: Writer, kept: int
) -> dict[str, float]:
    """Fraction of held-out answers that greedy generation would produce, by teacher forcing.

    Parameters
    ----------
    kept: largest number of tokens of a clip, chosen at random. With few, some questions cannot be answered.
    """
    model.eval()
    rng = np.random.default_rng(5)
    world = held_out.recipe.world
    hits: dict[str, list[bool]] = {kind: [] for kind in world.kinds}
    for index, clip in enumerate(held_out.clips):
        owners = held_out.owners[index].flatten().numpy()
        cells = np.sort(rng.choice(len(owners), min(kept, len(owners)), replace=False))
        visible = set(owners[cells].tolist()) - {0}
        asked = {q.kind: q for q in world.questions(clip, rng, {n - 1 for n in visible})}
        asked = {kind: q for kind, q in asked.items() if len(hits[kind]) < _PROBES_A_KIND}
        if not asked:
            continue
        blocks = [writer.block(q.text, q.answer) for q in asked.values()]
        chosen = torch.from_numpy(cells)
        features = held_out.features[index].flatten(0, 1)[chosen]
        logits, targets = answer_logits(model, pack([features], [torch.arange(len(cells))], [len(cells)], [blocks]))
        right = (logits.argmax(-1) == targets).split([len(ids) - first for ids, first in blocks])
        for kind, tokens in zip(asked, right, strict=True):
            hits[kind].append(bool(tokens.all()))
    model.train()
    scores = {kind: sum(h) / len(h) for kind, h in hits.items() if h}
    return {"exact": sum(scores.values()) / len(scores), **scores}
