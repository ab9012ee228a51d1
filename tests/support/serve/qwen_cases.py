"""Tests that all Qwen families pass: vLLM with the plug-in against transformers with the same method attached."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.support.serve.engine import FORKED_RANKS, IN_PROCESS, WITHOUT_PLUGINS, Reply, Request, answers
from tests.support.serve.qwen_oracle import Oracle
from tests.support.serve.qwen_requests import AGAIN, DEFAULT, FULL, LONG, ONE, OPTIONS, SEVERAL, TIGHT, TOGETHER, check


def both(requests: Sequence[Request], replies: Sequence[Reply], oracle: Oracle) -> None:
    assert len(replies) == len(requests)
    for request, reply in zip(requests, replies, strict=True):
        check(reply, oracle.reply(request))


class QwenCases:
    """For one checkpoint; `also` are batches of the family's own."""

    make: ClassVar[Callable[[Path], Path]]
    counted: ClassVar[bool]
    caches_prefixes: ClassVar[bool] = True
    """Not by default where the text model has recurrent layers."""
    also: ClassVar[dict[str, list[Request]]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return cls.make(tmp_path_factory.mktemp("checkpoint"))

    @pytest.fixture(scope="class")
    @classmethod
    def oracle(cls, folder: Path) -> Oracle:
        return Oracle.of(folder, counted=cls.counted)

    @pytest.fixture(scope="class")
    @classmethod
    def replies(cls, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Reply]]:
        """All replies of one engine with the plug-in."""
        batches = {
            "one": ONE,
            "default": [DEFAULT],
            "several": SEVERAL,
            "together": TOGETHER,
            "cold": AGAIN[:1],
            "warm": AGAIN,
            **cls.also,
        }
        told = answers(tmp_path_factory.mktemp("engine"), list(batches.values()), model=str(folder), **OPTIONS)
        return dict(zip(batches, told, strict=True))

    def test_videos_of_all_retentions(self, replies: dict[str, list[Reply]], oracle: Oracle) -> None:
        both(ONE, replies["one"], oracle)
        both([DEFAULT], replies["default"], oracle)

    def test_several_videos_images_and_text(self, replies: dict[str, list[Reply]], oracle: Oracle) -> None:
        both(SEVERAL, replies["several"], oracle)

    def test_retentions_of_one_clip_in_one_batch(self, replies: dict[str, list[Reply]], oracle: Oracle) -> None:
        both(TOGETHER, replies["together"], oracle)

    def test_a_cached_prefix_with_the_video_in_it(self, replies: dict[str, list[Reply]], oracle: Oracle) -> None:
        assert replies["cold"][0].cached_tokens == 0
        assert all(reply.cached_tokens >= 64 for reply in replies["warm"]) or not self.caches_prefixes
        both(AGAIN, replies["warm"], oracle)

    def test_chunks_preemption_and_another_method(self, folder: Path, tmp_path: Path) -> None:
        """Answers are those of the oracle, which has neither chunks nor preemption; the method reads keys."""
        options = OPTIONS | TIGHT | {"hf_overrides": {"tango": {"method": "visionzip"}}}
        batches = [ONE[2:], SEVERAL, TOGETHER, LONG]
        told = answers(tmp_path, batches, model=str(folder), **options)
        oracle = Oracle.of(folder, counted=self.counted, method="visionzip")
        for requests, replies in zip(batches, told, strict=True):
            both(requests, replies, oracle)
        # More than there are, although each prompt had its place when it was let in.
        blocks = [-(-(reply.prompt_tokens + len(reply.ids)) // TIGHT["block_size"]) for reply in told[-1]]
        assert sum(blocks) > TIGHT["num_gpu_blocks_override"]

    def test_two_tensor_parallel_ranks(self, folder: Path, oracle: Oracle, tmp_path: Path) -> None:
        """Heads of the tower are shared out between them; the method needs the mean over all."""
        requests = ONE[2:4]
        options = {"model": str(folder), "tensor_parallel_size": 2, **OPTIONS}
        (replies,) = answers(tmp_path, [requests], environment=FORKED_RANKS, **options)
        both(requests, replies, oracle)

    def test_full_retention_is_vanilla(self, replies: dict[str, list[Reply]], folder: Path, tmp_path: Path) -> None:
        """Against vLLM without the plug-in."""
        plain = [Request(each.prompt, each.videos, each.images) for each in FULL]
        options = {"model": str(folder), "max_model_len": 2048}
        (told,) = answers(tmp_path, [plain], environment=IN_PROCESS | WITHOUT_PLUGINS, **options)
        for reply, vanilla in zip(replies["one"], told, strict=False):
            assert (reply.ids, reply.prompt_tokens) == (vanilla.ids, vanilla.prompt_tokens)
            assert reply.logprobs == pytest.approx(vanilla.logprobs, abs=1e-5)

    def test_the_checkpoint_notices_positions(self, folder: Path) -> None:
        """One of three coordinates of the visual tokens, at another of their places."""
        right, wrong = Oracle.of(folder), Oracle.of(folder)
        stock = wrong.model.model.get_rope_index

        def moved(ids: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
            positions, delta = stock(ids, *args, **kwargs)
            positions[2] = torch.where(kwargs["mm_token_type_ids"] > 0, positions[1], positions[2])
            return positions, delta

        wrong.model.model.get_rope_index = moved
        for request in ONE[:3]:
            one, other = right.reply(request), wrong.reply(request)
            assert one.ids != other.ids or one.logprobs != pytest.approx(other.logprobs, abs=1e-3)
