"""Settings of LiteLLM's that its users' files hold, and that have no effect here."""

UNUSED = frozenset(
    """
    alerting alerting_config alerting_threshold allowed_fails_policy assistants_config auto_router_capability_limit
    background_health_check_model_groups cache cache_kwargs cache_params cache_responses caching_groups callbacks
    client_ttl content_policy_fallbacks context_window_fallbacks debug_level default_fallbacks
    default_internal_user_params default_litellm_params default_max_parallel_requests default_priority
    default_team_settings deployment_affinity_ttl_seconds disable_cooldowns drop_params enable_health_check_routing
    enable_pre_call_checks enable_tag_filtering enable_weighted_failover failure_callback fallback_access_check
    fallback_budget_check force_ipv4 guardrail_list health_check_ignore_transient_errors
    health_check_staleness_threshold ignore_invalid_deployments json_logs max_fallbacks max_internal_user_budget
    model_group_affinity_config model_group_alias model_group_retry_policy modify_params optional_pre_call_checks
    plugins polling_interval provider_budget_config redact_user_api_key_info redis_db redis_host redis_password
    redis_port redis_url request_timeout retry_after retry_policy router_general_settings routing_groups
    routing_strategy routing_strategy_args search_tools service_callback set_verbose stream_timeout
    success_callback tag_filtering_match_any tag_routing_prefix telemetry timeout turn_off_message_logging
    """.split()  # noqa: SIM905 - one a line would be a page
)
"""Keys of `router_settings` and `litellm_settings`, by LiteLLM's documentation and its router's arguments."""
