"""Names that `litellm_params` may hold: LiteLLM's own, and those of requests, which are defaults there."""

from difflib import get_close_matches

from proxy.config import LiteLLMParams

_LIKE = 0.8
_LITELLM = frozenset(
    """
    allowed_openai_params api_type api_version aws_access_key_id aws_bedrock_runtime_endpoint aws_external_id
    aws_profile_name aws_region_name aws_role_name aws_secret_access_key aws_session_name aws_session_token
    aws_sts_endpoint aws_web_identity_token azure_ad_token azure_password azure_scope azure_username base_model
    base_url bedrock_tags bucket_name budget_duration cache client_id client_secret configurable_clientside_auth_params
    cooldown_time custom_llm_provider default_api_key_rpm_limit default_api_key_tpm_limit drop_params
    additional_drop_params extra_body extra_headers extra_query fallbacks gcs_bucket_name hf_model_name headers
    input_cost_per_query itpm keepalive_seconds litellm_credential_name litellm_trace_id max_budget max_file_size_mb
    max_input_tokens max_output_tokens max_retries merge_reasoning_content_in_choices mock_response mode model_info
    num_retries order organization otpm project region_name s3_bucket_name s3_region_name ssl_verify stream_timeout
    supports_system_message tag_regex tags tenant_id use_chat_completions_api use_in_pass_through use_litellm_proxy
    user_continue_message vector_store_id vertex_credentials vertex_location vertex_project watsonx_region_name
    """.split()  # noqa: SIM905 - one a line would be a page
)
"""By `GenericLiteLLMParams` and LiteLLM's documentation."""

_REQUEST = frozenset(
    """
    audio bad_words best_of chat_template chat_template_kwargs dimensions echo enable_search enable_thinking
    encoding_format frequency_penalty function_call functions guided_choice guided_decoding_backend guided_grammar
    guided_json guided_regex ignore_eos include_stop_str_in_output inference_geo input instructions length_penalty
    logit_bias logprobs max_completion_tokens max_new_tokens max_tokens messages metadata min_p min_tokens min_k
    mirostat mirostat_eta mirostat_tau modalities models n num_ctx num_predict parallel_tool_calls plugins prediction
    presence_penalty prompt prompt_cache_key prompt_cache_retention provider reasoning reasoning_effort
    repeat_penalty repetition_penalty response_format route safe_prompt safety_identifier safety_settings
    search_parameters seed service_tier skip_special_tokens spaces_between_special_tokens speed stop stop_sequences
    stop_token_ids store stream stream_options structured_outputs suffix system temperature tfs_z thinking
    thinking_budget tool_choice tools top_a top_k top_logprobs top_n top_p transforms truncate_prompt_tokens
    truncation typical_p use_beam_search user verbosity web_search web_search_options
    """.split()  # noqa: SIM905 - the same
)
"""Parameters of OpenAI's requests, and of the providers' that are known well."""

_KNOWN = _LITELLM | _REQUEST | LiteLLMParams.model_fields.keys()


def known(name: str) -> bool:
    """Whether LiteLLM or a request has this name."""
    return name in _KNOWN


def likely(name: str) -> str | None:
    """The name that one which is not known was probably meant to be; None: it is like none of them."""
    return next(iter(get_close_matches(name, sorted(_KNOWN), n=1, cutoff=_LIKE)), None)
