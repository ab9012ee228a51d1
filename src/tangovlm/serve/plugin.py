"""What vLLM calls in each of its processes: models that prune, and a check of the options before anything is loaded.

Nothing heavy may be imported here: the plug-in is registered in every process of every vLLM that finds it installed.
"""

from types import SimpleNamespace
from typing import Any

from ..errors import InputError, ModelError
from ..registry import family_for
from . import compat
from .models.served import MODELS
from .models.served import __name__ as _CLASSES
from .options import CONFIG_KEY, ServeOptions

_M_ROPE = frozenset(
    {
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLMoeForConditionalGeneration",
    }
)
"""Architectures of which vLLM must be told that positions are moved."""

_WORKERS = {"cpu": "tangovlm.serve.cpu_worker.TangoCPUWorker"}


def register() -> None:
    """Entry point ``vllm.general_plugins``; may run more than once."""
    from vllm import ModelRegistry

    for architecture in MODELS:
        ModelRegistry.register_model(architecture, f"{_CLASSES}:{architecture}")
    try:
        from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    except ImportError:
        # Not of a release that is known: our models say so where one is asked for, the others need not suffer.
        return
    for architecture in ModelRegistry.get_supported_archs():
        hook = MODELS_CONFIG_MAP.setdefault(architecture, StartUp if architecture in MODELS else Unknown)
        if architecture not in MODELS and not issubclass(hook, Unknown):
            MODELS_CONFIG_MAP[architecture] = _behind_ours(hook)


class Unknown:
    """vLLM's hook for an architecture that the plug-in does not serve and vLLM has no hook for."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """See that no pruning is asked for.

        Raises
        ------
        ModelError: it is.
        """
        if getattr(model_config.hf_config, CONFIG_KEY, None) is not None:
            raise ModelError(
                f"{CONFIG_KEY!r} cannot prune videos of {model_config.architecture}: it serves {', '.join(MODELS)}"
            )

    @staticmethod
    def verify_and_update_config(_vllm_config: Any) -> None:
        """Nothing is changed."""


def _behind_ours(hook: Any) -> type:
    """A hook of vLLM's own for an architecture that the plug-in does not serve, with `Unknown` in front of it."""

    class Both(hook, Unknown):
        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            Unknown.verify_and_update_model_config(model_config)
            hook.verify_and_update_model_config(model_config)

    return Both


class StartUp:
    """vLLM's hook for one architecture, called in the process that starts the others."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Check the options and the release of vLLM, so that a mistake ends the start with one line.

        Raises
        ------
        InputError, MethodError: see `ServeOptions`; InputError: together with vLLM's own pruning.
        ModelError: the family does not give what the method needs; a release that the plug-in cannot build on.
        """
        options = ServeOptions.of(model_config.hf_config)
        if options is None:
            return
        compat.at_start_up(*MODELS[model_config.architecture].groups)
        options.signals(family_for(model_config.architecture)(SimpleNamespace(config=model_config.hf_config)))
        config = model_config.multimodal_config
        if config.is_multimodal_pruning_enabled():
            raise InputError(f"--video-pruning-rate and {CONFIG_KEY!r} prune both: give only one of them")
        if model_config.architecture in _M_ROPE:
            # vLLM asks a model for moved positions only where a rate is set; what is kept is up to the requests.
            config.video_pruning_rate = max(1 - options.retention, _LEAST_RATE)

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Choose the worker and the reader of media, where the stock ones would not do.

        Raises
        ------
        ModelError: the model is asked to run in a way in which it cannot be pruned.
        """
        from vllm.platforms import current_platform

        from . import media

        model_config, parallel = vllm_config.model_config, vllm_config.parallel_config
        options = ServeOptions.of(model_config.hf_config)
        if options is None:
            return
        hiding = {
            "--mm-encoder-tp-mode data": model_config.multimodal_config.mm_encoder_tp_mode == "data",
            "compile_mm_encoder": vllm_config.compilation_config.compile_mm_encoder,
        }
        needs = options.pruner(options.retention).needs - {"timestamps"}
        for option, given in hiding.items():
            if given and needs:
                raise ModelError(
                    f"{option} hides what method {options.method!r} needs of the vision encoder: leave it out"
                )
        if model_config.architecture in _M_ROPE and parallel.pipeline_parallel_size > 1:
            raise ModelError(
                "later pipeline stages count M-RoPE positions without the video, so they do not learn what is kept of "
                "it: use --tensor-parallel-size in place of --pipeline-parallel-size"
            )
        if model_config.architecture in _M_ROPE and vllm_config.speculative_config is not None:
            # With both, the older of vLLM's runners corrects positions on the device and then overwrites them.
            vllm_config.scheduler_config.async_scheduling = False
        if parallel.worker_cls == "auto":
            parallel.worker_cls = _WORKERS.get(current_platform.device_type, "auto")
        media.register()


_LEAST_RATE = 1e-6
