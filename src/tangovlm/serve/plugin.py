"""Where vLLM calls this package: `register`, an entry point of the group ``vllm.general_plugins``.

vLLM calls it in each of its processes, and it registers

* model classes that prune videos (`model_registry`), for each architecture in `SERVED_MODELS`;
* a configuration hook for every architecture, which checks the options before anything is loaded.

In every environment where the package is installed, vLLM imports this module in all of its processes, with or without
pruning. So nothing slow may be imported here.
"""

from typing import Any

from ..errors import InputError, ModelError
from . import compatibility
from .model_registry import SERVED_MODELS, described_family
from .options import CONFIG_KEY, ServeOptions
from .rope_config import use_axes

_MIN_PRUNING_RATE = 1e-6
_ENCODER_BUDGET = "tangovlm.serve.encoder_budget.EncoderBudget"
_WORKERS = {"cpu": "tangovlm.serve.cpu_worker.TangoCPUWorker"}


def register() -> None:
    """Register the models and hooks of the plug-in; may be called more than once."""
    from vllm import ModelRegistry

    for architecture in SERVED_MODELS:
        ModelRegistry.register_model(architecture, f"tangovlm.serve.model_registry:{architecture}")
    try:
        from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    except ImportError:
        # An unsupported release of vLLM: models that prune raise when they start, others are not affected.
        return
    for architecture in ModelRegistry.get_supported_archs():
        ours = ServedModelConfig if architecture in SERVED_MODELS else OtherModelConfig
        hook = MODELS_CONFIG_MAP.setdefault(architecture, ours)
        if not issubclass(hook, ours):
            MODELS_CONFIG_MAP[architecture] = _chain_hooks(ours, hook)


class OtherModelConfig:
    """Configuration hook for an architecture that the plug-in does not serve and for which vLLM has no hook."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Check that pruning is not requested.

        Raises
        ------
        ModelError: it is requested.
        """
        if getattr(model_config.hf_config, CONFIG_KEY, None) is not None:
            raise ModelError(
                f"{CONFIG_KEY!r} cannot prune videos of {model_config.architecture}: it serves "
                f"{', '.join(SERVED_MODELS)}"
            )

    @staticmethod
    def verify_and_update_config(_vllm_config: Any) -> None:
        """Change nothing."""


def _chain_hooks(ours: Any, hook: Any) -> type:
    """vLLM's own hook for an architecture, run after ours."""

    class Both(hook, ours):
        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            ours.verify_and_update_model_config(model_config)
            hook.verify_and_update_model_config(model_config)

        @staticmethod
        def verify_and_update_config(vllm_config: Any) -> None:
            ours.verify_and_update_config(vllm_config)
            hook.verify_and_update_config(vllm_config)

    return Both


class ServedModelConfig:
    """Configuration hook for the served architectures, called in the process that starts the others."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Check the options and the release of vLLM, so that a mistake ends the start with a one-line message.

        Raises
        ------
        InputError, MethodError: see `ServeOptions`; InputError also if vLLM's own pruning is on.
        ModelError: the family does not provide a signal that the method needs, newlines or positions that cannot be
            served, or the release is incompatible.
        """
        options = ServeOptions.of(model_config.hf_config)
        if options is None:
            return
        compatibility.check_at_startup(*SERVED_MODELS[model_config.architecture].groups)
        family = described_family(model_config.architecture, model_config.hf_config)
        options.signals(family)
        options.check_newlines(family)
        config = model_config.multimodal_config
        if config.is_multimodal_pruning_enabled():
            raise InputError(f"--video-pruning-rate and {CONFIG_KEY!r} prune both: give only one of them")
        if options.original_positions(family):
            if not family.keeps_positions:
                compatibility.check_at_startup("runners", "original-positions")
                use_axes(model_config)
            # vLLM recomputes positions only if a rate above 0 is set. Requests decide how many tokens are kept.
            config.video_pruning_rate = max(1 - options.retention, _MIN_PRUNING_RATE)

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Replace the worker, the media connector and the budget of the encoder where the stock ones do not work well.

        Raises
        ------
        ModelError: an option of vLLM that is incompatible with pruning.
        """
        from vllm.platforms import current_platform

        from . import media_connector

        model_config, parallel = vllm_config.model_config, vllm_config.parallel_config
        options = ServeOptions.of(model_config.hf_config)
        if options is None:
            return
        if model_config.multimodal_config.mm_encoder_tp_mode == "data":
            raise ModelError(
                "--mm-encoder-tp-mode data: all ranks need what a method reads in the vision encoder, so each would "
                "encode every video: leave it out, then they share the heads"
            )
        needs = options.pruner(options.retention).needs - {"timestamps"}
        if vllm_config.compilation_config.compile_mm_encoder and needs:
            raise ModelError(
                f"compile_mm_encoder hides what method {options.method!r} needs of the vision encoder: leave it out"
            )
        if vllm_config.ec_transfer_config is not None:
            raise ModelError(
                "--ec-transfer-config: encoders in servers of their own are not tested with pruned videos: leave it "
                "out, or serve without pruning"
            )
        if model_config.uses_mrope and parallel.pipeline_parallel_size > 1:
            raise ModelError(
                "later pipeline stages compute positions without the video, so they do not know which of its tokens "
                "are kept: use --tensor-parallel-size in place of --pipeline-parallel-size, or positions 'contiguous' "
                "if the model has no M-RoPE"
            )
        if model_config.uses_mrope and vllm_config.speculative_config is not None:
            # With both, the older of vLLM's two model runners corrects positions on the device, then overwrites them.
            vllm_config.scheduler_config.async_scheduling = False
        if vllm_config.ec_manager_config.encoder_cache_manager_cls is None:
            vllm_config.ec_manager_config.encoder_cache_manager_cls = _ENCODER_BUDGET
        if parallel.worker_cls == "auto":
            parallel.worker_cls = _WORKERS.get(current_platform.device_type, "auto")
        media_connector.register()
