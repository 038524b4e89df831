"""What a request asks for that bears on its price."""

from typing import Any

import pytest

from proxy.money import Kinds, Rates
from proxy.types import JSON
from proxy.upstream.asked import dearest, given_service, impossible_kinds, paid_apart, possible_services

PLAIN = Rates(1, 2)
SOUND = {"audio_input", "cached_audio"}
ALL = SOUND | {"image_input", "audio_output", "cache_write_1h"}


def chat(*parts: JSON, **more: Any) -> JSON:
    return {"messages": [{"role": "user", "content": list(parts) or "6 x 7?"}], **more}


@pytest.mark.parametrize(
    ("asked", "services"),
    [
        (None, None),
        ("auto", None),
        ("default", set()),
        ("standard_only", set()),
        ("flex", {"flex"}),
        ("priority", {"priority"}),
        ("fast", {"priority"}),
        (7, None),
    ],
)
def test_only_who_names_a_service_is_sure_of_it(asked: object, services: set[str] | None) -> None:
    assert possible_services(asked) == services


@pytest.mark.parametrize(
    ("told", "asked", "service"),
    [
        ("priority", None, "priority"),
        ("default", "priority", ""),
        ("flex", "priority", "flex"),
        (None, "priority", "priority"),
        ("auto", "flex", "flex"),
        (None, "auto", ""),
        (None, None, ""),
        ("Fast", None, "priority"),
        ("scale", None, ""),
    ],
)
def test_the_replys_service_is_billed_and_else_the_requests(told: str | None, asked: object, service: str) -> None:
    assert given_service(told, asked) == service


LONG = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
SHORT = {"cache_control": {"type": "ephemeral", "ttl": "5m"}}


@pytest.mark.parametrize(
    ("body", "possible"),
    [
        (chat(), set()),
        (chat({"type": "text", "text": "x"} | SHORT), set()),
        (chat({"type": "text", "text": "x"} | LONG), {"cache_write_1h"}),
        (chat(tools=[{"type": "function", "function": {}} | LONG]), {"cache_write_1h"}),
        (chat({"type": "image_url", "image_url": {}}), {"image_input"}),
        (chat({"type": "input_audio"}), SOUND | {"image_input"}),
        (chat({"type": "file"}), SOUND | {"image_input"}),
        (chat(modalities=["text", "audio"]), {"audio_output"}),
        (chat(audio={"voice": "alloy"}), {"audio_output"}),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, SOUND | {"image_input"}),
        ({"messages": [7, {"content": 7}]}, SOUND | {"image_input"}),
        ({"input": "x"}, SOUND | {"image_input"}),
    ],
)
def test_a_call_has_no_sound_pictures_or_long_caching_but_where_its_body_may(body: JSON, possible: set[str]) -> None:
    assert ALL - impossible_kinds(body) == possible


def test_the_dearest_rates_are_those_of_what_is_asked_for() -> None:
    kinds = Kinds(audio_input=50, audio_output=70)
    rates = Rates(1, 2, kinds=kinds, services=(("priority", Rates(10, 20, kinds=kinds)),))
    assert dearest(rates, 9, chat()) == Rates(10, 20)
    assert dearest(rates, 9, chat(service_tier="default")) == Rates(1, 2)
    assert dearest(rates, 9, chat({"type": "input_audio"}, service_tier="flex", audio={})) == Rates(50, 2)
    assert dearest(rates, 9, chat(service_tier="flex", modalities=["audio"])) == Rates(1, 70)
    assert dearest(PLAIN, 9, chat()) is PLAIN


@pytest.mark.parametrize(
    "more",
    [
        {"web_search_options": {}},
        {"search_parameters": {"mode": "auto"}},
        {"plugins": [{"id": "web"}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "web_search_20250305", "name": "w"}]},
        {"tools": [{"googleSearch": {}}]},
        {"tools": [{"type": "code_interpreter"}]},
        {"modalities": ["text", "image"]},
        {"modalities": ["audio"]},
        {"service_tier": "priority"},
        {"speed": "fast"},
        {"inference_geo": "us"},
    ],
)
def test_what_no_known_rate_pays_for_is_named(more: JSON) -> None:
    assert paid_apart(chat(**more), PLAIN) == next(iter(more))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"web_search_options": None, "enable_search": False},
        {"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "custom", "custom": {"name": "c"}}]},
        {"tools": [{"type": "computer_20250124"}, {"function": {"name": "f"}}]},
        {"modalities": ["text"]},
        {"service_tier": "auto"},
        {"service_tier": "flex"},
        {"service_tier": None, "tools": None, "modalities": None},
    ],
)
def test_what_tokens_pay_for_may_be_asked_for(more: JSON) -> None:
    assert paid_apart(chat(**more), PLAIN) is None


def test_what_has_a_rate_is_paid_by_it() -> None:
    rates = Rates(1, 2, kinds=Kinds(audio_output=3, image_output=4), services=(("priority", Rates(2, 4)),))
    asked = chat(modalities=["text", "audio", "image"], service_tier="priority")
    assert paid_apart(asked, rates) is None
    assert paid_apart(asked | {"service_tier": "ultrafast"}, rates) == "service_tier"
