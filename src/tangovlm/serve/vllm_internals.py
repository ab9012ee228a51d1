"""The internals of vLLM that the plug-in uses: a table, which `compatibility` checks against the installed release.

Groups are in brackets, modules at the margin. Below a module are its classes, methods and functions, with their use:

    have     it exists
    hold     instances of the class have these attributes
    call     the plug-in calls it with these arguments; those after ``*`` are keyword arguments
    replace  the plug-in overrides it; vLLM calls it with exactly these arguments, or with others too after ``...``
    hook     vLLM calls it with these arguments, among others, which a hook of the plug-in reads
    use      the code of vLLM reads these attributes there, and so calls the plug-in

``self`` is left out. A method that is overridden and called by `super` is listed as "replace" only.
"""

import re
from dataclasses import dataclass
from functools import cache

_TABLE = """
[start-up]
vllm
    call     ModelRegistry.register_model(model_arch, model_cls)
    call     ModelRegistry.get_supported_archs()
vllm.model_executor.models.config
    have     MODELS_CONFIG_MAP
    replace  VerifyAndUpdateConfig.verify_and_update_model_config(model_config)
    replace  VerifyAndUpdateConfig.verify_and_update_config(vllm_config)
vllm.config
    hold     ModelConfig(hf_config, architecture, multimodal_config, max_model_len, uses_mrope)
    use      ModelConfig._try_verify_and_update_model_config(verify_and_update_model_config)
    use      VllmConfig.try_verify_and_update_config(verify_and_update_config)
    hold     VllmConfig(model_config, parallel_config, compilation_config, scheduler_config, speculative_config,
                 ec_manager_config, ec_transfer_config)
    hold     MultiModalConfig(video_pruning_rate, mm_encoder_tp_mode)
    call     MultiModalConfig.is_multimodal_pruning_enabled()
    hold     CompilationConfig(compile_mm_encoder)
    hold     ParallelConfig(worker_cls, pipeline_parallel_size)
    hold     SchedulerConfig(async_scheduling)
    hold     EncoderCacheManagerConfig(encoder_cache_manager_cls)
vllm.v1.core.encoder_cache_manager
    replace  EncoderCacheManager.can_allocate(request, input_id, encoder_compute_budget, num_embeds_to_schedule)
vllm.v1.core.sched.scheduler
    use      Scheduler._try_schedule_encoder_inputs(encoder_cache_manager, can_allocate)
vllm.v1.request
    call     Request.get_num_encoder_embeds(input_id)
vllm.platforms
    have     current_platform.device_type
vllm.multimodal.media.connector
    call     MEDIA_CONNECTOR_REGISTRY.register(name)
    replace  MediaConnector.load_from_url(url, media_io, ...)
    replace  MediaConnector.load_from_url_async(url, media_io, ...)
vllm.multimodal.media.video
    hold     VideoMediaIO(kwargs, video_loader)
vllm.multimodal.video
    call     VIDEO_LOADER_REGISTRY.register(name)
    replace  VideoLoader.load_bytes(data, ...)
vllm.multimodal.video_decoders
    call     check_frame_pixel_limit(width, height)
vllm.multimodal.processing.inputs
    use      ProcessorInputs.get_mm_hashes(media_io_kwargs)

[videos]
vllm.multimodal
    call     MULTIMODAL_REGISTRY.register_processor(processor, *, info, dummy_inputs)
vllm.multimodal.inputs
    call     MultiModalFieldConfig.batched(modality, *, keep_on_cpu)
vllm.multimodal.parse
    call     MultiModalDataParser(*, video_needs_metadata, expected_hidden_size, allow_missing_mm_embeddings)
    replace  MultiModalDataParser._get_video_with_metadata(video)
    call     VideoProcessorItems.get_all()
    have     VideoEmbeddingItems
vllm.multimodal.processing.context
    hold     BaseProcessingInfo(ctx, get_hf_config, get_tokenizer, allow_missing_mm_embeddings)
    call     BaseProcessingInfo._get_expected_hidden_size()
    hold     InputProcessingContext(model_config)
    call     InputProcessingContext.get_merged_mm_kwargs(kwargs)
vllm.logger
    call     init_logger(name)
vllm.distributed
    call     get_tensor_model_parallel_world_size()
    call     tensor_model_parallel_all_reduce(input_)
    call     get_tp_group()
vllm.distributed.parallel_state
    call     GroupCoordinator.broadcast(input_, *, src)
    hold     GroupCoordinator(rank_in_group)

[llava-onevision]
vllm.multimodal.processing
    call     PromptReplacement(*, modality, target, replacement)
vllm.multimodal.processing.processor
    hold     HFMultiModalInputs(hf_data, passthrough_data)
vllm.model_executor.models.llava_onevision
    replace  LlavaOnevisionProcessingInfo.get_data_parser()
    call     LlavaOnevisionProcessingInfo._get_num_frame_tokens(*, image_width, image_height)
    have     LlavaOnevisionDummyInputsBuilder
    replace  LlavaOnevisionMultiModalProcessor._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)
    replace  LlavaOnevisionMultiModalProcessor._apply_hf_processor_main(mm_items, hf_kwargs)
    replace  LlavaOnevisionMultiModalProcessor._get_hf_mm_inputs(mm_items, hf_kwargs)
    replace  LlavaOnevisionMultiModalProcessor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
    replace  LlavaOnevisionMultiModalProcessor.apply(inputs, timing_ctx)
    call     LlavaOnevisionForConditionalGeneration(*, vllm_config, prefix)
    hold     LlavaOnevisionForConditionalGeneration(config, vision_tower, image_newline, language_model)
    replace  LlavaOnevisionForConditionalGeneration.load_weights(weights)
    replace  LlavaOnevisionForConditionalGeneration.embed_multimodal(...)
    replace  LlavaOnevisionForConditionalGeneration._process_video_pixels(inputs)
    call     LlavaOnevisionForConditionalGeneration._video_pixels_to_features(vision_tower, pixel_values)
vllm.model_executor.models.siglip
    hold     SiglipVisionModel(vision_model)
    hold     SiglipVisionTransformer(encoder)
    hold     SiglipEncoder(layers)
    hold     SiglipEncoderLayer(self_attn)
    hold     SiglipAttention(qkv_proj, num_heads_per_partition)

[original-positions]
vllm.config
    hold     ModelConfig(hf_text_config, uses_mrope)
vllm.transformers_utils.config
    use      uses_mrope(_uses_mrope)
vllm.utils.gpu_sync_debug
    call     gpu_sync_allowed()
vllm.model_executor.layers.rotary_embedding
    use      get_rope(MRotaryEmbedding)
vllm.model_executor.layers.rotary_embedding.mrope
    hold     MRotaryEmbedding(cache_max_position_num)
vllm.model_executor.models.interfaces
    have     supports_multimodal_pruning
    hold     SupportsMRoPE(supports_mrope, get_mrope_input_positions)
    hold     SupportsMultiModalPruning(supports_multimodal_pruning, recompute_mrope_positions)
vllm.model_executor.models.qwen2
    hold     Qwen2ForCausalLM(model)
    hold     Qwen2Model(layers)
    hold     Qwen2DecoderLayer(self_attn)
    hold     Qwen2Attention(rotary_emb)

[qwen]
vllm.multimodal.inputs
    call     MultiModalFeatureSpec(data, modality, identifier, mm_position)
    hold     MultiModalFeatureSpec(data, mm_position)
    call     PlaceholderRange(offset, length)
    hold     PlaceholderRange(offset, length)
vllm.multimodal.processing
    hold     PromptReplacement(modality, replacement)
vllm.utils.gpu_sync_debug
    call     gpu_sync_allowed()
vllm.model_executor.models.qwen2_5_vl
    hook     Qwen2_5_VisionAttention.forward(rotary_pos_emb_cos, rotary_pos_emb_sin)
    hold     Qwen2_5_VisionAttention(qkv, num_attention_heads_per_partition)

[qwen2.5-vl]
vllm.model_executor.models.qwen2_5_vl
    have     Qwen2_5_VLProcessingInfo
    have     Qwen2_5_VLDummyInputsBuilder
    replace  Qwen2_5_VLMultiModalProcessor._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)
    replace  Qwen2_5_VLMultiModalProcessor._apply_hf_processor_main(mm_items, hf_kwargs)
    replace  Qwen2_5_VLMultiModalProcessor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
    call     Qwen2_5_VisionTransformer.forward(x, *, grid_thw)
    hold     Qwen2_5_VisionTransformer(blocks)
    hold     Qwen2_5_VisionBlock(attn)
    call     Qwen2_5_VLForConditionalGeneration(*, vllm_config, prefix)
    hold     Qwen2_5_VLForConditionalGeneration(config, visual)
    replace  Qwen2_5_VLForConditionalGeneration.embed_multimodal(...)
    replace  Qwen2_5_VLForConditionalGeneration._process_video_input(video_input)
    replace  Qwen2_5_VLForConditionalGeneration._postprocess_image_embeds_evs(image_embeds_split, image_input)
    replace  Qwen2_5_VLForConditionalGeneration._postprocess_video_embeds_evs(video_embeds_split, video_input)
    replace  Qwen2_5_VLForConditionalGeneration.get_mm_lora_token_counts(*, modality, mm_kwargs, num_mm_embeds)
    replace  Qwen2_5_VLForConditionalGeneration.get_mrope_input_positions(input_tokens, mm_features)
    replace  Qwen2_5_VLForConditionalGeneration.recompute_mrope_positions(input_ids, multimodal_embeddings,
                 mrope_positions, num_computed_tokens)

[qwen3-vl]
vllm.model_executor.models.qwen3_vl
    have     Qwen3VLProcessingInfo
    have     Qwen3VLDummyInputsBuilder
    replace  Qwen3VLProcessingInfo._calculate_timestamps(indices, video_fps, merge_size)
    replace  Qwen3VLMultiModalProcessor._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)
    replace  Qwen3VLMultiModalProcessor._apply_hf_processor_main(mm_items, hf_kwargs)
    replace  Qwen3VLMultiModalProcessor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
    call     Qwen3VLMultiModalProcessor.get_video_repl(*, tokens_per_frame, timestamps, tokenizer,
                 vision_start_token_id, vision_end_token_id, video_token_id, select_token_id)
    call     Qwen3_VisionTransformer.forward(x, *, grid_thw)
    hold     Qwen3_VisionTransformer(blocks)
    hold     Qwen3_VisionBlock(attn)
    hook     Qwen3_VisionBlock.forward(rotary_pos_emb_cos, rotary_pos_emb_sin)
    call     Qwen3VLForConditionalGeneration(*, vllm_config, prefix)
    hold     Qwen3VLForConditionalGeneration(config, visual, visual_dim, multiscale_dim, _tokenizer)
    call     Qwen3VLForConditionalGeneration.get_language_model()
    replace  Qwen3VLForConditionalGeneration.embed_multimodal(...)
    replace  Qwen3VLForConditionalGeneration._process_video_input(video_input)
    replace  Qwen3VLForConditionalGeneration._postprocess_image_embeds_evs(image_embeds_split, image_input)
    replace  Qwen3VLForConditionalGeneration._postprocess_video_embeds_evs(video_embeds_split, video_input)
    replace  Qwen3VLForConditionalGeneration.get_mm_lora_token_counts(*, modality, mm_kwargs, num_mm_embeds)
    replace  Qwen3VLForConditionalGeneration.get_mrope_input_positions(input_tokens, mm_features)
    replace  Qwen3VLForConditionalGeneration.recompute_mrope_positions(input_ids, multimodal_embeddings,
                 mrope_positions, num_computed_tokens)
vllm.model_executor.models.qwen3_vl_moe
    have     Qwen3VLMoeProcessingInfo
    have     Qwen3VLMoeForConditionalGeneration

[qwen3.5]
vllm.model_executor.models.qwen3_5
    replace  Qwen3_5ProcessingInfo._calculate_timestamps(indices, video_fps, merge_size)
    replace  Qwen3_5MoeProcessingInfo._calculate_timestamps(indices, video_fps, merge_size)
    have     Qwen3_5MoeForConditionalGeneration
    call     Qwen3_5ForConditionalGeneration(*, vllm_config, prefix)
    hold     Qwen3_5ForConditionalGeneration(config, visual, visual_dim, multiscale_dim, _tokenizer)
    call     Qwen3_5ForConditionalGeneration.get_language_model()
    replace  Qwen3_5ForConditionalGeneration.embed_multimodal(...)
    replace  Qwen3_5ForConditionalGeneration._process_video_input(video_input)
    replace  Qwen3_5ForConditionalGeneration._postprocess_image_embeds_evs(image_embeds_split, image_input)
    replace  Qwen3_5ForConditionalGeneration._postprocess_video_embeds_evs(video_embeds_split, video_input)
    replace  Qwen3_5ForConditionalGeneration.get_mm_lora_token_counts(*, modality, mm_kwargs, num_mm_embeds)
    replace  Qwen3_5ForConditionalGeneration.get_mrope_input_positions(input_tokens, mm_features)
    replace  Qwen3_5ForConditionalGeneration.recompute_mrope_positions(input_ids, multimodal_embeddings,
                 mrope_positions, num_computed_tokens)

[runners]
vllm.v1.worker.gpu_model_runner
    use      GPUModelRunner.load_model(is_multimodal_pruning_enabled, requires_sequential_video_encoding)
    use      GPUModelRunner._gather_mm_embeddings(is_multimodal_pruning_enabled, recompute_mrope_positions)
vllm.v1.worker.gpu.model_states.mm_pruning
    use      maybe_create_mm_pruner(is_multimodal_pruning_enabled)
    use      MultiModalPruner.recompute(recompute_mrope_positions)

[cpu]
vllm.model_executor.models.interfaces
    call     supports_multimodal_pruning(model)
vllm.v1.worker.cpu_worker
    replace  CPUWorker.load_model(...)
vllm.v1.worker.gpu_model_runner
    hold     GPUModelRunner(model_config, is_multimodal_pruning_enabled, requires_sequential_video_encoding)
    call     GPUModelRunner.get_model()

[batch]
vllm
    have     EngineArgs
    have     SamplingParams
    call     LLMEngine.from_engine_args(engine_args)
    call     LLMEngine.add_request(request_id, prompt, params)
    call     LLMEngine.step()
    call     LLMEngine.get_tokenizer()
    hold     LLMEngine(model_config, renderer)
vllm.config
    call     ModelConfig.get_diff_sampling_param()
vllm.engine.arg_utils
    call     EngineArgs.add_cli_args(parser)
    call     EngineArgs.from_cli_args(args)
vllm.renderers
    call     BaseRenderer.render_cmpl(prompts)
vllm.utils.argparse_utils
    replace  FlexibleArgumentParser.error(message)
vllm.v1.engine.exceptions
    have     EngineDeadError
"""

_CONTINUED = re.compile(r",\n\s+")


@dataclass(frozen=True)
class Internal:
    """A class, method or function of vLLM.

    Parameters
    ----------
    module, name: the module, and the qualified name within it.
    use: how the plug-in uses it, a word of the table.
    words: its arguments or attributes in the table.
    """

    module: str
    name: str
    use: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@cache
def groups() -> dict[str, tuple[Internal, ...]]:
    """Name of a group to its internals."""
    return parse_table(_TABLE)


def parse_table(table: str) -> dict[str, tuple[Internal, ...]]:
    """Parse a table in the format described at the top of this module."""
    parsed: dict[str, tuple[Internal, ...]] = {}
    group = module = ""
    for line in filter(None, _CONTINUED.sub(", ", table).splitlines()):
        if line.startswith("["):
            group = line.strip("[]")
            parsed[group] = ()
        elif not line.startswith(" "):
            module = line
        else:
            use, entry = line.split(maxsplit=1)
            name, _, words = entry.partition("(")
            arguments = tuple(word.strip() for word in words.rstrip(")").split(",") if word.strip())
            parsed[group] += (Internal(module, name, use, arguments),)
    return parsed
