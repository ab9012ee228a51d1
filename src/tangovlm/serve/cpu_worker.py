"""A fix of vLLM's worker for CPUs, whose runner (0.32) ignores that a model recomputes positions of visual tokens."""

from typing import Any

from . import compatibility

with compatibility.importing_vllm():
    from vllm.model_executor.models.interfaces import supports_multimodal_pruning
    from vllm.v1.worker.cpu_worker import CPUWorker

compatibility.require_internals("cpu")


class TangoCPUWorker(CPUWorker):
    """The stock worker, which also sets the flags that the model runner for GPUs reads from the loaded model."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model, then set the flags of the runner."""
        super().load_model(*args, **kwargs)
        runner = self.model_runner
        config, model = runner.model_config.multimodal_config, runner.get_model()
        runner.is_multimodal_pruning_enabled = bool(
            config is not None and config.is_multimodal_pruning_enabled() and supports_multimodal_pruning(model)
        )
        runner.requires_sequential_video_encoding = hasattr(model, "requires_sequential_video_encoding")
