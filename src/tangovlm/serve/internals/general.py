"""Internals of vLLM that the plug-in uses for all models; see `table` for the format."""

GENERAL = """
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
