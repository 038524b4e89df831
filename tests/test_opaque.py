"""Answers that are not stored: names that tell which are equal, and nothing else."""

import json
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger import Ballot, RequestRow, Text, Texts
from proxy.ledger.frames import Ask, Frames, framed
from proxy.ledger.opaque import Names, opaque
from proxy.ledger.serving import reader
from proxy.ledger.texts import MOST_BYTES, kept
from proxy.types import Account, Tenant

STORING = Tenant("acme", store_samples=True, store_samples_days=7)

# few different ones, so that equal ones come; some look like the names that stand for them
answers = st.one_of(st.none(), st.sampled_from(["42", "41", "#1", "#2", ""]), st.text(st.characters(), max_size=9))


def request(labels: list[str | None], answer: str | None, first: str | None) -> RequestRow:
    return RequestRow(
        account=Account("acme", None, "req_1"),
        model="small",
        strategy="adaptive",
        status=200,
        samples=len(labels),
        abstained=0,
        rounds=1,
        winner=0,
        answer=answer,
        first_answer=first,
        confidence=0.5,
        cost_nano=1,
        reason=None,
        latency_ms=1,
        ballots=tuple(Ballot(f"d{place}", label, 0.5, None) for place, label in enumerate(labels)),
        question="What is six times seven?",
        texts=Texts(30, (Text("", "[]"),)),
    )


def said(row: RequestRow) -> list[str | None]:
    return [*(ballot.label for ballot in row.ballots), row.answer, row.first_answer]


requests = st.builds(request, st.lists(answers, max_size=8), answers, answers)


@given(requests)
def test_what_was_equal_is_equal_and_what_differed_differs(row: RequestRow) -> None:
    for (before, after), (other, beside) in combinations(zip(said(row), said(opaque(row)), strict=True), 2):
        assert (before == other) == (after == beside)
    assert [text is None for text in said(row)] == [text is None for text in said(opaque(row))]


@given(requests)
def test_names_are_numbers_in_the_order_in_which_answers_first_come(row: RequestRow) -> None:
    named = [name for name in said(opaque(row)) if name is not None]
    assert list(dict.fromkeys(named)) == [f"#{number}" for number in range(1, len(set(named)) + 1)]


@given(requests)
def test_all_else_of_a_request_stays_but_what_was_asked_and_said(row: RequestRow) -> None:
    made = opaque(row)
    assert (made.question, made.texts) == (None, None)
    gone: dict[str, Any] = {"answer": None, "first_answer": None, "question": None, "texts": None, "ballots": ()}
    assert replace(made, **gone) == replace(row, **gone)
    assert [replace(ballot, label=None) for ballot in made.ballots] == [
        replace(ballot, label=None) for ballot in row.ballots
    ]


@given(requests)
def test_names_of_names_are_the_same(row: RequestRow) -> None:
    assert opaque(opaque(row)) == opaque(row)


def test_nothing_that_was_said_can_be_read_in_what_is_left() -> None:
    row = request(["Mr Smith", None, "Mrs Jones"], "Mrs Jones", "somebody else")
    assert said(opaque(row)) == ["#1", None, "#2", "#2", "#3"]
    left = json.dumps(asdict(opaque(row)))
    assert not any(text in left for text in ("Smith", "Jones", "somebody", "seven"))


def test_a_name_is_the_same_each_time_it_is_asked_for() -> None:
    names = Names()
    assert [names.of(text) for text in ("b", None, "a", "b")] == ["#1", None, "#2", "#1"]


def test_a_tenant_that_stores_nothing_has_no_texts_and_none_is_read() -> None:
    def never() -> Any:
        raise AssertionError("a message was read")
        yield

    assert kept(Tenant("acme"), {"messages": []}, never()) is None


values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(values, max_size=3), st.lists(st.dictionaries(st.just("content"), values), max_size=3))
def test_a_prompt_and_messages_are_kept_as_they_are(prompt: list[Any], messages: list[Any]) -> None:
    texts = kept(STORING, {"messages": prompt}, [(f"d{place}", each) for place, each in enumerate(messages)])
    assert texts is not None
    assert texts.days == 7
    assert [text.draw for text in texts.said] == ["", *(f"d{place}" for place in range(len(messages)))]
    assert [json.loads(text.text) for text in texts.said] == [prompt, *messages]
    assert not any(text.cut for text in texts.said)


@given(st.integers(0, 3))
def test_a_long_text_is_cut_between_letters_and_marked(shift: int) -> None:
    content = "x" * shift + "\N{OLD PERMIC LETTER AN}" * (MOST_BYTES // 4)
    texts = kept(STORING, {"messages": []}, [("d0", {"content": content})])
    assert texts is not None
    text = texts.said[1]
    assert text.cut
    assert MOST_BYTES - 4 < len(text.text.encode()) <= MOST_BYTES
    assert json.dumps({"content": content}, ensure_ascii=False, separators=(",", ":")).startswith(text.text)


def test_texts_come_to_the_process_that_writes_as_they_were() -> None:
    row = request(["42"], "42", "42")
    (frame,) = Frames().feed(framed(1, Ask.RECORD, row))
    assert reader(RequestRow).validate_json(frame.body) == row
