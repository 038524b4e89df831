"""The operator's file: what it may say, and every mistake in it by file, key and reason."""

from proxy.config.models import (
    AnswerConfig,
    Config,
    GeneralSettings,
    KeyConfig,
    LiteLLMParams,
    ModelEntry,
    ModelInfo,
    RouterSettings,
    ScalingConfig,
    ScorerConfig,
    TenantConfig,
    TenantOptions,
)
from proxy.config.reading import load_config, parse_config

__all__ = [
    "AnswerConfig",
    "Config",
    "GeneralSettings",
    "KeyConfig",
    "LiteLLMParams",
    "ModelEntry",
    "ModelInfo",
    "RouterSettings",
    "ScalingConfig",
    "ScorerConfig",
    "TenantConfig",
    "TenantOptions",
    "load_config",
    "parse_config",
]
