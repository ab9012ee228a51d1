"""vLLM's worker for CPUs, whose runner (0.32) overlooks that a model moves positions of visual tokens."""

from typing import Any

from . import compat

with compat.internals():
    from vllm.model_executor.models.interfaces import supports_multimodal_pruning
    from vllm.v1.worker.cpu_worker import CPUWorker

compat.require_seams("cpu")


class TangoCPUWorker(CPUWorker):
    """The stock worker, with what its runner for GPUs reads from the model after loading it."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model, then tell the runner what it is."""
        super().load_model(*args, **kwargs)
        runner = self.model_runner
        config, model = runner.model_config.multimodal_config, runner.get_model()
        runner.is_multimodal_pruning_enabled = bool(
            config is not None and config.is_multimodal_pruning_enabled() and supports_multimodal_pruning(model)
        )
        runner.requires_sequential_video_encoding = hasattr(model, "requires_sequential_video_encoding")
