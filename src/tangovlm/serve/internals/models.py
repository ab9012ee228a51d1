"""Internals of vLLM that model classes of the plug-in use; see `table` for the format."""

MODELS = """
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

[llava-video]
vllm.model_executor.models.llava_onevision
    replace  LlavaOnevisionProcessingInfo._get_num_frame_tokens(*, image_width, image_height)
    replace  LlavaOnevisionProcessingInfo.get_num_video_tokens(*, image_width, image_height, num_frames)
    replace  LlavaOnevisionForConditionalGeneration.apply_pooling(image_features, stride)

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

[qwen-omni]
vllm.forward_context
    call     set_forward_context(attn_metadata, vllm_config)
vllm.multimodal.processing.context
    hold     BaseProcessingInfo(ctx, get_hf_config, get_tokenizer, allow_missing_mm_embeddings)
vllm.multimodal.processing.processor
    hold     HFMultiModalInputs(hf_data)
vllm.model_executor.models.qwen2_5_omni_thinker
    replace  Qwen2_5OmniThinkerMultiModalProcessor._get_hf_mm_inputs(mm_items, hf_kwargs)
    replace  Qwen2_5OmniThinkerMultiModalProcessor._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)
    replace  Qwen2_5OmniThinkerMultiModalProcessor._apply_hf_processor_main(mm_items, hf_kwargs)

[qwen2.5-omni]
vllm.model_executor.models.qwen2_5_omni_thinker
    have     Qwen2_5OmniThinkerDummyInputsBuilder
    call     Qwen2_5OmniThinkerMultiModalDataParser(spatial_merge_size, ...)
    replace  Qwen2_5OmniThinkerMultiModalDataParser._get_video_with_metadata(video)
    replace  Qwen2_5OmniThinkerProcessingInfo.get_data_parser()
    call     Qwen2_5OmniThinkerProcessingInfo.get_feature_extractor()
    call     Qwen2_5OmniThinkerProcessingInfo.get_target_channels()
    replace  Qwen2_5OmniThinkerMultiModalProcessor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
    call     Qwen2_5OmniThinkerForConditionalGeneration(*, vllm_config, prefix)
    hold     Qwen2_5OmniThinkerForConditionalGeneration(config, visual, vllm_config)
    replace  Qwen2_5OmniThinkerForConditionalGeneration.embed_multimodal(...)
    replace  Qwen2_5OmniThinkerForConditionalGeneration._process_video_input(video_input)
    replace  Qwen2_5OmniThinkerForConditionalGeneration.get_mm_lora_token_counts(*, modality, mm_kwargs, num_mm_embeds)
    replace  Qwen2_5OmniThinkerForConditionalGeneration.get_mrope_input_positions(input_tokens, mm_features)

[qwen3-omni]
vllm.model_executor.models.qwen3_omni_moe_thinker
    have     Qwen3OmniMoeThinkerDummyInputsBuilder
    call     Qwen3OmniMoeThinkerMultiModalDataParser(spatial_merge_size, ...)
    replace  Qwen3OmniMoeThinkerMultiModalDataParser._get_video_with_metadata(video)
    replace  Qwen3OmniMoeThinkerProcessingInfo.get_data_parser()
    call     Qwen3OmniMoeThinkerProcessingInfo.get_feature_extractor()
    call     Qwen3OmniMoeThinkerProcessingInfo.get_target_channels()
    replace  Qwen3OmniMoeThinkerMultiModalProcessor._get_hf_mm_inputs(mm_items, hf_kwargs)
    replace  Qwen3OmniMoeThinkerMultiModalProcessor._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)
    replace  Qwen3OmniMoeThinkerMultiModalProcessor._apply_hf_processor_main(mm_items, hf_kwargs)
    replace  Qwen3OmniMoeThinkerMultiModalProcessor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
    call     Qwen3Omni_VisionTransformer.forward(x, grid_thw)
    hold     Qwen3Omni_VisionTransformer(blocks)
    hold     Qwen3_VisionBlock(attn)
    call     Qwen3OmniMoeThinkerForConditionalGeneration(*, vllm_config, prefix)
    hold     Qwen3OmniMoeThinkerForConditionalGeneration(config, visual, vllm_config, visual_dim, multiscale_dim)
    replace  Qwen3OmniMoeThinkerForConditionalGeneration.embed_multimodal(...)
    replace  Qwen3OmniMoeThinkerForConditionalGeneration._process_video_input(video_input)
    replace  Qwen3OmniMoeThinkerForConditionalGeneration.get_mm_lora_token_counts(*, modality, mm_kwargs, num_mm_embeds)
    replace  Qwen3OmniMoeThinkerForConditionalGeneration.get_mrope_input_positions(input_tokens, mm_features)

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
"""
