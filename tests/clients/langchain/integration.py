"""LangChain's own integration tests for chat models, against the strategy that the environment names."""

from typing import Any

from checks import places
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

PLACE = places()[0]


class TestTally(ChatModelIntegrationTests):
    """All but images, which it fetches from elsewhere; the check program sends one of its own."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "any", "base_url": PLACE.base_url, "api_key": PLACE.key, "stream_usage": True, "timeout": 20}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "text"
