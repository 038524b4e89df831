"""What instructor sees of tally."""

from typing import Any

import instructor
from checks import MESSAGES, Place, Suite, refused, waits
from instructor.core import InstructorRetryException
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

suite = Suite("instructor", "instructor")


class Product(BaseModel):
    """The product of two numbers."""

    left: int
    right: int


class Words(BaseModel):
    """What a prompt without a schema may be answered with."""

    left: str


def is_six(made: Any) -> None:
    assert (made.left, made.right) == (6, 6), made


def api(at: Place, mode: instructor.Mode = instructor.Mode.TOOLS, **more: Any) -> Any:
    return instructor.from_openai(OpenAI(**{"base_url": at.base_url, "api_key": at.key, "timeout": 20, **more}), mode)


def product(at: Place, model: str, **more: Any) -> Any:
    asked = {"model": model, "messages": MESSAGES, "response_model": Product, "max_retries": 1}
    return api(at).create(**{**asked, **more})


@suite.feature("forced tool")
def forced_tool(at: Place) -> None:
    is_six(product(at, "tool"))


@suite.feature("tools")
def tools(at: Place) -> None:
    strict = api(at, instructor.Mode.TOOLS_STRICT)
    is_six(strict.create(model="tool", messages=MESSAGES, response_model=Product, max_retries=1))
    many = strict.create_iterable(model="tool", messages=MESSAGES, response_model=Product)
    [one] = many
    is_six(one)


@suite.feature("tools streamed")
def tools_streamed(at: Place) -> None:
    *_, last = api(at).create_partial(model="tool", messages=MESSAGES, response_model=Product)
    is_six(last)


@suite.feature("structured")
def structured(at: Place) -> None:
    keys = [{"role": "user", "content": "What is `left` of 6 x 7?"}]
    schema = api(at, instructor.Mode.JSON_SCHEMA)
    is_six(schema.create(model="json", messages=MESSAGES, response_model=Product, max_retries=1))
    free = api(at, instructor.Mode.JSON).create(model="json", messages=keys, response_model=Words, max_retries=1)
    assert free.left == "42"


@suite.feature("structured streamed")
def structured_streamed(at: Place) -> None:
    asked = {"model": "json", "messages": MESSAGES, "response_model": Product}
    *_, last = api(at, instructor.Mode.JSON_SCHEMA).create_partial(**asked)
    is_six(last)


@suite.feature("text")
async def asynchronously(at: Place) -> None:
    async with AsyncOpenAI(base_url=at.base_url, api_key=at.key) as client:
        made, raw = await instructor.from_openai(client).create_with_completion(
            model="tool", messages=MESSAGES, response_model=Product, max_retries=1
        )
    is_six(made)
    assert raw.usage.total_tokens > 0


@suite.feature("tally field")
def tally_field(at: Place) -> None:
    is_six(product(at, "tool", extra_body={"tally": {"max_samples": 4}}))


@suite.feature("error 400")
def error_400(at: Place) -> None:
    with at.tries(400, 1), refused(InstructorRetryException):
        product(at, "rejects")


@suite.feature("error 402 not retried")
def error_402(at: Place) -> None:
    poor = api(at, api_key=at.poor_key)
    with at.tries(402, 1), refused(InstructorRetryException):
        poor.create(model="tool", messages=MESSAGES, response_model=Product, max_retries=1)


@suite.feature("retry after 429")
def retry_after_429(at: Place) -> None:
    asked = [{"role": "user", "content": at.asking("instructor")}]
    with waits():
        is_six(product(at, "limited", messages=asked))


suite.run()
