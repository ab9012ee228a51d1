"""The recipe, a few steps of it: every stage runs, can be resumed, and hands on what the next one needs."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache as cache_results
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from tangovlm.tiny import cache, language, lessons, recipe, tower, train
from tangovlm.tiny.export import WEIGHTS, export
from tangovlm.tiny.optimizer import Muon, warm_up_then_decay
from tangovlm.tiny.synthetic.render import render
from tangovlm.tiny.synthetic.worlds import World
from tangovlm.tiny.tokenizer import build_tokenizer

FIRST, SECOND = recipe.recipe(1), recipe.recipe(2)
_tokenizer = cache_results(build_tokenizer)


def tokenizer_of(world: World = FIRST.world) -> PreTrainedTokenizerFast:
    """What `build_tokenizer` trains, once for all tests."""
    return _tokenizer(world)


def _weights(path: Path, key: str) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)[key]


def _run(folder: Path, stages: list[str], tower_steps: int = 2, language_steps: int = 4) -> None:
    steps = ["--tower-steps", str(tower_steps), "--language-steps", str(language_steps)]
    options = ["--clips", "4", "--workers", "0", "--output", str(folder / "model")]
    train.main(["--run", str(folder), *steps, *options, "--stages", *stages])


def _small_recipe(version: int) -> recipe.Recipe:
    return replace(recipe.recipe(version), held_out_clips=3)


def _stop_after(monkeypatch: pytest.MonkeyPatch, module: object, saves: int) -> None:
    """Make the stage die right after its `saves`-th checkpoint, as a kill would."""
    save, done = module.save_checkpoint, []  # type: ignore[attr-defined]

    def save_and_die(*args: object) -> None:
        save(*args)
        done.append(1)
        if len(done) == saves:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_checkpoint", save_and_die)


@pytest.fixture(scope="module", autouse=True)
def short_stages() -> Iterator[None]:
    """A tokenizer takes longer to train than a few steps do, and so do measurements, which are only printed."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (language, train):
            patch.setattr(module, "build_tokenizer", tokenizer_of)
        patch.setattr(tower, "_HELD_OUT_DRAWS", 2)
        patch.setattr(language, "_PROBED_TOKENS", 64)
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "recipe", _small_recipe)
        _run(folder, ["tower", "cache", "language", "export"])
    return folder


def test_the_recipe_ends_in_a_stock_checkpoint(small: Path) -> None:
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(small / "model", local_files_only=True)
    trained = _weights(small / "language.pt", "model")
    assert model.dtype == torch.float32
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, trained[name], rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize("stage", ["tower", "language"])
def test_a_killed_stage_goes_on_where_it_was(
    stage: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"tower": tower, "language": language}[stage]
    monkeypatch.setattr(module, "_CHECKPOINT_EVERY", 1)
    monkeypatch.setattr(train, "recipe", _small_recipe)
    if stage == "language":
        _encoded_folder(tmp_path, small)
    with monkeypatch.context() as patch:
        _stop_after(patch, module, 1)
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path, [stage])
    assert torch.load(tmp_path / f"{stage}.pt", weights_only=True)["step"] == 1
    _run(tmp_path, [stage])
    key = {"tower": "tower", "language": "model"}[stage]
    resumed, straight = _weights(tmp_path / f"{stage}.pt", key), _weights(small / f"{stage}.pt", key)
    assert all(torch.allclose(resumed[name], straight[name], atol=1e-6) for name in straight)


def test_an_earlier_run_is_the_start_of_a_later_one(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no steps to take, a run that starts from another one has its weights."""
    monkeypatch.setattr(tower, "WARM_RATE", 0.0)
    train.main(
        ["--run", str(tmp_path), "--earlier", str(small), "--stages", "tower", "--tower-steps", "1", "--workers", "0"]
    )
    started, taught = _weights(tmp_path / "tower.pt", "tower"), _weights(small / "tower.pt", "tower")
    assert all(torch.allclose(started[name], taught[name], atol=1e-6) for name in taught)

    tokenizer = tokenizer_of()
    model = language.build_language(tmp_path, tokenizer, torch.zeros(1, 64, 192), small, FIRST).state_dict()
    trained = _weights(small / "language.pt", "model")
    assert all(torch.allclose(model[name], trained[name], atol=1e-6) for name in trained)


def test_the_embedded_model_is_the_start_of_one_for_another_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the heads of the tower are trained at first; known words and all layers are copied."""
    start = ["--run", str(tmp_path), "--world", "2", "--earlier", str(WEIGHTS)]
    train.main([*start, "--stages", "tower", "--tower-steps", "1", "--workers", "0"])
    embedded = LlavaOnevisionForConditionalGeneration.from_pretrained(WEIGHTS, local_files_only=True).state_dict()
    started = _weights(tmp_path / "tower.pt", "tower")
    vision = [name for name in embedded if "vision_tower" in name or "multi_modal_projector" in name]
    assert len(vision) > 50
    assert all(torch.equal(started[f"model.{name}"], embedded[name]) for name in vision)

    tokenizer = tokenizer_of(SECOND.world)
    old, new = AutoTokenizer.from_pretrained(WEIGHTS, local_files_only=True).get_vocab(), tokenizer.get_vocab()
    model = language.build_language(tmp_path, tokenizer, torch.zeros(1, 64, 192), WEIGHTS, SECOND).state_dict()
    words = "model.language_model.embed_tokens.weight"
    assert set(tokenizer.tokenize("arrows wedge seconds change")).isdisjoint(old)
    assert all(torch.equal(model[words][new[word]], embedded[words][old[word]]) for word in set(new) & set(old))
    layers = [name for name in embedded if "language_model.layers" in name]
    assert all(torch.equal(model[name], embedded[name]) for name in layers)


def test_more_layers_compute_the_same(small: Path) -> None:
    tokenizer = tokenizer_of()
    shallow = language.load_language(small).eval()
    deep = language._deeper(shallow, tokenizer, replace(FIRST, layers=12)).eval()
    assert len(deep.model.language_model.layers) == 12
    writer, features = lessons.Writer(tokenizer), cache.load_clips(small, "train", 1, FIRST).features[0]
    lesson = lessons.pack(
        [features.flatten(0, 1)[:40]], [torch.arange(40)], [40], [[writer.block("What color is the star?", "red")]]
    )
    with torch.no_grad():
        before, after = (language.answer_logits(model, lesson)[0] for model in (shallow, deep))
    assert torch.allclose(before, after, atol=1e-5)
    deep.train()
    loss = language.answer_logits(deep, lesson)[0].square().mean()
    loss.backward()
    for layer in deep.model.language_model.layers:
        assert all(last.weight.grad.abs().sum() > 0 for last in (layer.self_attn.o_proj, layer.mlp.down_proj))


def _growing_recipe(version: int) -> recipe.Recipe:
    """The depth changes after half of the steps, which see few tokens only: `small` goes through the curriculum."""
    return replace(_small_recipe(version), layers=8, deepen_at=0.5, curriculum=FIRST.curriculum[:1])


def _encoded_folder(folder: Path, small: Path) -> Path:
    """A directory for the language stage, with the tower and the encoded clips of `small`."""
    for shared in ("clips-train", "clips-held-out", "tower.pt"):
        (folder / shared).symlink_to(small / shared)
    return folder


@pytest.fixture(scope="module")
def growing(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The language stage of the growing recipe without a kill."""
    folder = _encoded_folder(tmp_path_factory.mktemp("growing"), small)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "recipe", _growing_recipe)
        _run(folder, ["language"])
    return folder


@pytest.mark.parametrize("saves", [1, 2, 3])
def test_a_killed_stage_goes_on_on_either_side_of_the_change_of_depth(
    saves: int, small: Path, growing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "recipe", _growing_recipe)
    monkeypatch.setattr(language, "_CHECKPOINT_EVERY", 1)
    killed = _encoded_folder(tmp_path, small)
    with monkeypatch.context() as patch:
        _stop_after(patch, language, saves)
        with pytest.raises(KeyboardInterrupt):
            _run(killed, ["language"])
    _run(killed, ["language"])
    straight, resumed = (_weights(folder / "language.pt", "model") for folder in (growing, killed))
    assert straight.keys() == resumed.keys()
    assert any("layers.7." in name for name in straight)
    assert all(torch.allclose(resumed[name], straight[name], atol=1e-6) for name in straight)
    assert len(language.load_language(killed).model.language_model.layers) == 8


def test_a_lesson_asks_when_only_if_its_tokens_tell() -> None:
    """The first token of the thing must be in the part of the clip in which it appears."""
    clip = SECOND.world.draw_clip(np.random.default_rng(5), 64, None)
    _, owners = render(clip, clip.times(64))
    flat = owners.flatten()
    everything = lessons._timed(clip, flat, np.arange(len(flat)))
    assert everything == {int(number) - 1 for number in np.unique(flat) if number}
    thing = max(everything, key=lambda index: clip.things[index].end - clip.things[index].start)
    late = np.flatnonzero((flat == thing + 1) & (np.arange(len(flat)) // 64 >= clip.things[thing].end - 1))
    assert lessons._timed(clip, flat[late], late) == set()


def test_caching_fills_in_the_shards_that_are_missing(small: Path) -> None:
    shard = small / "clips-train" / "000000.safetensors"
    before, time = shard.read_bytes(), shard.stat().st_mtime_ns
    cache.cache_clips(small, "train", 4, FIRST)
    assert shard.stat().st_mtime_ns == time
    shard.unlink()
    cache.cache_clips(small, "train", 4, FIRST)
    assert shard.read_bytes() == before


def test_a_lesson_hides_each_question_from_the_others(small: Path) -> None:
    """Answers' logits must not depend on what else is asked behind the clip."""
    tokenizer = tokenizer_of()
    writer, model = lessons.Writer(tokenizer), language.load_language(small).eval()
    blocks = [writer.block("What color is the star?", "red"), writer.block("How many rings are there?", "two")]
    features = cache.load_clips(small, "train", 1, FIRST).features[0].flatten(0, 1)[:40]
    place = torch.arange(40)
    with torch.no_grad():
        both, _ = language.answer_logits(model, lessons.pack([features], [place], [40], [blocks]))
        alone = [
            language.answer_logits(model, lessons.pack([features], [place], [40], [[block]]))[0] for block in blocks
        ]
        padded, _ = language.answer_logits(
            model, lessons.pack([features, features[:9]], [place, place[:9]], [40, 9], [blocks, blocks[:1]])
        )
    assert torch.allclose(both, torch.cat(alone), atol=1e-4)
    assert torch.allclose(both, padded[: len(both)], atol=1e-4)


@pytest.mark.parametrize("of", [FIRST, SECOND])
def test_the_curriculum_ends_with_uniform_dropping(of: recipe.Recipe) -> None:
    for level in of.curriculum[-1][1]:
        assert level.things is None


def test_muon_makes_orthogonal_steps() -> None:
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.zeros(24, 16))
    (matrix * torch.randn(24, 16)).sum().backward()
    Muon([matrix], lr=1.0, weight_decay=0.0).step()
    singular = torch.linalg.svdvals(matrix.detach()) / (24 / 16) ** 0.5
    assert singular.min() > 0.6
    assert singular.max() < 1.3


def test_the_rate_warms_up_and_decays() -> None:
    rates = [warm_up_then_decay(step, 1000, 100, 0.4) for step in (0, 99, 500, 999)]
    assert rates[0] < 0.02
    assert rates[1] == rates[2] == 1.0
    assert rates[3] < 0.03


def test_the_shipped_tokenizer_is_the_one_that_the_recipe_builds() -> None:
    shipped, built = AutoTokenizer.from_pretrained(WEIGHTS, local_files_only=True), tokenizer_of()
    assert shipped.get_vocab() == built.get_vocab()
    for text in ("What color is the star?", "Any WORDS at all: 42!"):
        assert shipped(text).input_ids == built(text).input_ids


def test_the_tokenizer_holds_the_words_of_the_world_whole() -> None:
    tokenizer = tokenizer_of()
    for word in ("red", "hourglasses", "striped", "top", "three", "dog"):
        assert len(tokenizer(word).input_ids) == 1
    assert tokenizer.decode(tokenizer("47").input_ids).strip() == "47"
    assert tokenizer.decode(tokenizer("zebra crossing").input_ids).strip() == "zebra crossing"


def test_exporting_leaves_the_config_in_float32(small: Path, tmp_path: Path) -> None:
    export(language.load_language(small), tokenizer_of(), tmp_path)
    assert '"dtype": "float32"' in (tmp_path / "config.json").read_text()


def test_scenes_in_another_order_show_the_things_when_they_are_said_to_be_there() -> None:
    for index in range(6):
        rng = np.random.default_rng(index)
        clip = SECOND.world.draw_clip(rng, 32, "busy")
        shuffled, frames = lessons._shuffled(clip, rng)
        assert sorted(frames.tolist()) == list(range(32))
        owners = render(clip, clip.times(32))[1][frames.numpy()]
        for number, thing in enumerate(shuffled.things, start=1):
            seen = np.flatnonzero((owners == number).any((1, 2)))
            assert all(thing.start <= frame < thing.end for frame in seen)
        assert [scene.end for scene in shuffled.scenes[:-1]] == [scene.start for scene in shuffled.scenes[1:]]


def test_a_slowed_clip_asks_the_same_with_other_times() -> None:
    for index in range(6):
        clip = SECOND.world.draw_clip(np.random.default_rng(index), 16, "calm")
        slowed = lessons._slowed(clip, 4)
        asked, again = (SECOND.world.questions(each, np.random.default_rng(3), None) for each in (clip, slowed))
        assert slowed.length == 64 and [scene.end for scene in slowed.scenes][-1] == 64
        assert {q.about for q in asked if q.kind == "when"} == {q.about for q in again if q.kind == "when"} != set()
        answers = {q.about: q.answer for q in again if q.kind == "when"}
        for question in asked:
            if question.kind == "when":
                assert float(answers[question.about].split()[0]) == 4 * float(question.answer.split()[0])


def test_tokens_of_few_things_are_at_the_places_that_the_questions_are_about() -> None:
    """Of clips of 16 moments beside one of 64, also slowed: a feature tells its frame and cell, and so its position."""
    drawn = [SECOND.world.draw_clip(np.random.default_rng(index), n, "busy") for index, n in enumerate((16, 16, 64))]
    owners = [torch.from_numpy(render(clip, clip.times(clip.length))[1]).flatten(1) for clip in drawn]
    features = [torch.zeros(clip.length, 64, 192, dtype=torch.float16) for clip in drawn]
    for clip, feature in zip(drawn, features, strict=True):
        feature[..., 0], feature[..., 1] = torch.arange(clip.length)[:, None], torch.arange(64)
        feature[..., 2] = clip.length
    of = replace(SECOND, curriculum=((0.0, (recipe.FIRST_AND_LAST,)),), shuffled=0.0, original_positions=(1.0, 1.0))
    drawer = lessons.Lessons(
        cache.EncodedClips(of, drawn, features, owners), lessons.Writer(tokenizer_of(of.world)), 12, 0, 1300
    )
    factors = set()
    for step in range(12):
        lesson = drawer[step]
        for tokens, places, count in zip(lesson.features, lesson.positions, lesson.lengths.tolist(), strict=True):
            frames, cells, length = (tokens[:count, channel].long() for channel in range(3))
            factor = int(places[lesson.features.shape[1]]) // 64 // int(length[0])
            forwards, backwards = (factor * 64 * f + cells for f in (frames, length - 1 - frames))
            assert places[:count].tolist() in (forwards.tolist(), backwards.tolist())
            factors.add((int(length[0]), factor))
    assert factors == {(16, 1), (16, 2), (16, 4), (64, 1)}
