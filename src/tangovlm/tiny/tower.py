"""Stage 1 of the recipe: train the vision tower, its attention-pooling head and the projector on single frames.

A linear layer predicts from every pooled visual token what fills its cell. A linear layer on the pooling head predicts
what the frame contains, in place of the image-text loss of a real tower. Crowded still images come first: half of
their cells are labelled, so that shapes and digits are learnt early. Ordinary frames follow, for counting.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import LlavaOnevisionForConditionalGeneration

from .loop import Progress, batches, save_checkpoint
from .model import (
    TEXT_WIDTH,
    VISION_WIDTH,
    build,
    encode,
    is_checkpoint,
    load_checkpoint,
    pick_device,
    project_and_pool,
    to_pixels,
    visual_tokens,
)
from .optimizer import WARM_RATE, Muon, warm_up_then_decay
from .synthetic.glyphs import COLORS, SIGN_WORDS
from .synthetic.labels import ALL_SHAPES, ATTRIBUTES, cell_labels
from .synthetic.render import GRID, render
from .synthetic.world import Clip
from .synthetic.worlds import FIRST, World

_BATCH = 16
_FRAMES_A_DRAW = 2
_BACKGROUND_WEIGHT = 0.12
_ABSENT_SIGN_WEIGHT = 0.05
_LOSS_WEIGHTS = {"count": 0.7, "center": 0.3, "row": 0.3, "column": 0.3}
_FRAME_SIZES = (len(COLORS), len(ALL_SHAPES), len(COLORS) * len(ALL_SHAPES), 10, 10, len(SIGN_WORDS))
"""Numbers of classes that the pooling head predicts, in the order of `_frame_targets`."""
_CHECKPOINT_EVERY = 250
_HELD_OUT_DRAWS = 96
_HEADS_FIRST = 200
"""Number of steps that train only the heads if training starts from a checkpoint, which has none."""


class Frames(Dataset[tuple[Tensor, Tensor]]):
    """A fixed sequence of pairs of frames (2, 112, 112, 3) uint8 with their labels (2, 64, A) int8.

    Parameters
    ----------
    draws: length of the whole sequence; crowded frames are less frequent towards its end.
    first: index of the first item.
    ordinary: without crowded frames.
    """

    def __init__(
        self, draws: int, first: int = 0, seed: int = 1, ordinary: bool = False, of_world: World = FIRST
    ) -> None:
        self.draws, self.first, self.seed, self.ordinary = draws, first, seed, ordinary
        self.world = of_world

    def __len__(self) -> int:
        return self.draws - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        draw = self.first + index
        rng = np.random.default_rng([self.seed, draw])
        if not self.ordinary and rng.random() < (0.85 if draw < 0.6 * self.draws else 0.4):
            parts = [_labelled(self.world.draw_crowd(rng), [0.0]) for _ in range(_FRAMES_A_DRAW)]
            return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        clip = self.world.draw_clip(rng, int(rng.choice(self.world.lengths)), None)
        return _labelled(clip, rng.uniform(0, clip.length - 0.25, _FRAMES_A_DRAW).tolist())


def _labelled(clip: Clip, times: list[float]) -> tuple[Tensor, Tensor]:
    frames, owners = render(clip, times)
    labels = cell_labels(clip, times, owners)
    return torch.from_numpy(frames), torch.from_numpy(labels).flatten(1, 2)


class Heads(nn.Module):
    """The linear layers that predict labels; they are discarded after this stage."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(TEXT_WIDTH)
        self.classes = dict(ATTRIBUTES, row=GRID, column=GRID)
        self.dense = nn.Linear(TEXT_WIDTH, sum(self.classes.values()))
        self.frame = nn.Linear(VISION_WIDTH, sum(_FRAME_SIZES))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        logits = self.dense(self.norm(tokens)).split(list(self.classes.values()), -1)
        return dict(zip(self.classes, logits, strict=True))


def _by_name(labels: Tensor) -> dict[str, Tensor]:
    """Split labels (..., A) into one tensor (...) per attribute."""
    return dict(zip(ATTRIBUTES, labels.unbind(-1), strict=True))


def _frame_targets(labels: dict[str, Tensor]) -> Tensor:
    """What a frame contains, multi-hot (F, classes): colours, shapes, coloured shapes, digits by place, words."""
    color, shape = labels["color"], labels["shape"]
    pair = torch.where(color > 0, (color - 1) * len(ALL_SHAPES) + shape, 0)
    held = (color, shape, pair, labels["tens"], labels["units"], labels["word"])
    hot = []
    for classes, size in zip(held, _FRAME_SIZES, strict=True):
        present = torch.zeros(len(classes), size + 1, device=classes.device).scatter_(1, classes, 1.0)
        hot.append(present[:, 1:])
    return torch.cat(hot, 1)


def _augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Slight changes of blur, contrast and brightness, similar to those of a video codec and of resizing."""
    blur, gain, shift = (torch.rand(len(pixels), 1, 1, 1, generator=generator).to(pixels) for _ in range(3))
    smooth = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return pixels.lerp(smooth, 0.4 * blur) * (0.9 + 0.2 * gain) + 0.2 * (shift - 0.5)


class Tower(nn.Module):
    """The model and the heads of this stage."""

    def __init__(self) -> None:
        super().__init__()
        self.model = build(vocabulary=32, end=1, pad=0, image=2, video=3)
        self.heads = Heads()

    def trained(self) -> dict[str, nn.Module]:
        core = self.model.model
        return {"vision_tower": core.vision_tower, "multi_modal_projector": core.multi_modal_projector}

    def forward(self, pixels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        hidden = encode(self.model, pixels)
        tokens = visual_tokens(self.model, project_and_pool(self.model, hidden))
        tower = self.model.model.vision_tower
        return self.heads(tokens), self.heads.frame(tower.head(tower.post_layernorm(hidden)))

    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        dense, frame = self(pixels)
        filled = labels[..., :-1].amax(-1) > 0
        weight = torch.where(filled, 1.0, _BACKGROUND_WEIGHT)
        named = _by_name(labels)
        sign = named["tens"] + named["word"] > 0
        cells = torch.arange(GRID * GRID, device=labels.device).expand(len(labels), -1)
        targets = dict(named, row=cells // GRID, column=cells % GRID)
        out = {}
        for name, logits in dense.items():
            used = torch.where(sign, 1.0, _ABSENT_SIGN_WEIGHT) if name in ("tens", "units", "word") else weight
            loss = F.cross_entropy(logits.flatten(0, 1), targets[name].flatten(), reduction="none")
            out[name] = (loss * used.flatten()).sum() / used.sum()
        out["frame"] = 8 * F.binary_cross_entropy_with_logits(frame, _frame_targets(named))
        return out

    @torch.no_grad()
    def accuracy(self, pixels: Tensor, labels: Tensor) -> dict[str, float]:
        """Fraction of the cells with an attribute whose class is predicted correctly, per attribute."""
        dense, _ = self(pixels)
        result = {}
        for name, truth in _by_name(labels).items():
            has = truth > 0
            result[name] = (dense[name].argmax(-1) == truth)[has].float().mean().item()
        return result


def train_tower(run: Path, steps: int, workers: int = 1, earlier: Path | None = None, of_world: World = FIRST) -> None:
    """Train, or resume training, and save to `run`/tower.pt.

    Parameters
    ----------
    earlier: run or checkpoint directory whose trained tower is the starting point, with `WARM_RATE` of the learning
        rates; None for training from scratch. A checkpoint has no heads: they are trained first, and the last layer of
        the projector is kept, so that the features stay those that its language model reads.
    """
    torch.manual_seed(0)
    device, generator = pick_device(), torch.Generator().manual_seed(0)
    tower = Tower().to(device)
    muon, adam = _optimizers(tower, 1.0 if earlier is None else WARM_RATE)
    checkpoint, step, heads_first = run / "tower.pt", 0, 0
    if earlier is not None and is_checkpoint(earlier):
        tower.model.model.multi_modal_projector.linear_2.requires_grad_(False)
        heads_first = _HEADS_FIRST
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        tower.load_state_dict(state["tower"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        generator.set_state(state["generator"].cpu())
        step = state["step"]
    elif earlier is not None and heads_first:
        trained = load_checkpoint(earlier).model
        for name, part in tower.trained().items():
            part.load_state_dict(trained.get_submodule(name).state_dict())
    elif earlier is not None:
        state = torch.load(earlier / "tower.pt", map_location=device, weights_only=True)
        tower.load_state_dict(state["tower"])
    draws = _BATCH // _FRAMES_A_DRAW
    data = batches(Frames(steps * draws, first=step * draws, of_world=of_world), draws, workers)
    held_out = _held_out(device, of_world)
    with Progress("tower", steps, step) as progress:
        for frames, labels in data:
            factor = warm_up_then_decay(step, steps, 100, 0.4)
            for group in (*muon.param_groups, *adam.param_groups):
                held = step < heads_first and not group["heads"]
                group["lr"] = 0.0 if held else group["initial_lr"] * factor
            pixels = _augment(to_pixels(frames.flatten(0, 1).to(device)), generator)
            losses = tower.losses(pixels, labels.flatten(0, 1).long().to(device))
            loss = torch.stack([_LOSS_WEIGHTS.get(name, 1.0) * value for name, value in losses.items()]).sum()
            muon.zero_grad()
            adam.zero_grad()
            loss.backward()
            muon.step()
            adam.step()
            step += 1
            progress.step({"loss": loss.item()})
            if step % _CHECKPOINT_EVERY == 0 or step == steps:
                progress.note(tower.accuracy(*held_out))
                state = {"tower": tower.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict()}
                save_checkpoint({**state, "generator": generator.get_state(), "step": step}, checkpoint)


def load_tower(run: Path) -> LlavaOnevisionForConditionalGeneration:
    """The model with the tower and projector of `run`/tower.pt; its language model is untrained."""
    tower = Tower()
    tower.load_state_dict(torch.load(run / "tower.pt", map_location="cpu", weights_only=True)["tower"])
    return tower.model


def _optimizers(tower: Tower, rate: float) -> tuple[Muon, torch.optim.AdamW]:
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, param in [p for m in tower.trained().values() for p in m.named_parameters()]:
        (matrices if param.ndim == 2 and "embedding" not in name else rest).append(param)
    muon = Muon(matrices, lr=0.02 * rate)
    groups = [{"params": rest, "heads": False}, {"params": [*tower.heads.parameters()], "heads": True}]
    adam = torch.optim.AdamW(groups, lr=2e-3 * rate, betas=(0.9, 0.98), weight_decay=0.0)
    muon.param_groups[0]["heads"] = False
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return muon, adam


def _held_out(device: torch.device, of_world: World) -> tuple[Tensor, Tensor]:
    data = Frames(_HELD_OUT_DRAWS, seed=99, ordinary=True, of_world=of_world)
    draws = [data[i] for i in range(_HELD_OUT_DRAWS)]
    frames, labels = torch.cat([d[0] for d in draws]), torch.cat([d[1] for d in draws])
    return to_pixels(frames.to(device)), labels.long().to(device)
