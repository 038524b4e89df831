"""What a reply says: which spellings are one answer, what is found, what abstains, and which sample is returned."""

import gc
import math
import time
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest

from proxy.answers import (
    REFUSAL,
    Answer,
    Candidate,
    canonical,
    declared,
    mean_logprob,
    read,
    truncated,
    votable,
    winner,
)
from proxy.answers.structured import MAX_EXACT, MAX_JSON
from proxy.core.vote import plurality
from proxy.types import JSON, AnswerKind, AnswerSpec, Choice

EQUAL: list[list[str]] = [
    [
        "42",
        "42.0",
        "**42**",
        "$42$",
        r"\boxed{42}",
        "42.",
        "$42",
        r"\(42\)",
        r"\[42\]",
        "`42`",
        "+42",
        "(42)",
        '"42"',
        r"\text{42}",
        r"\mathbf{42}",
        "x = 42",
        r"\boxed{x=42}",
        "f(3) = 42",
        "42,",
        "{42}",
        "_42_",
        r"\$42",
        "\uff14\uff12",
        "84/2",
        "4.2e1",
        r"\frac{84}{2}",
        "€42",
        " 42 \n",
    ],
    [
        "1/2",
        "0.5",
        r"\frac{1}{2}",
        r"\dfrac12",
        ".5",
        r"\tfrac{1}{2}",
        "½",
        r"\frac12",
        r"\frac{1}2",
        "1 / 2",
        "2/4",
        r"\boxed{\frac{1}{2}}",
        "5e-1",
        r"\left(\frac12\right)",
    ],
    ["1,000", "1000", "1{,}000", r"1\,000", r"1\!,000", "1 000", "1e3", "$1,000", "10^3", "10^{3}", "10³", "1000.0"],
    ["-0", "0", "0.0", "+0", "\u22120"],
    ["x = 5", "5", "x=5", "y_1 = 5"],
    ["50%", r"50\%", "50 %", "50 percent", "50 per cent", r"$50\%$", "50.0%"],
    [r"\text{Paris}", "Paris", "paris", '"Paris"', "**Paris**", "Paris.", "*Paris*", r"\textbf{Paris}", "PARIS!"],
    [r"\left( 1, 2 \right)", "(1,2)", "(1, 2)", "$(1,2)$", "(1.0, 4/2)"],
    ["A", '"A"', "(A)", "a", "A.", "A)", "**A**", "Option A", "(a)", "**(A)**", "[A]", r"\text{(A)}", "A. Apples"],
    ["B", "B. Paris", "(B) Paris", r"\textbf{(B)}\ 42", "**B**", "B: Paris", "choice B", "B) 42"],
    ["5.5", "5½", r"5\frac12", "5 1/2", "11/2"],
    ["-5", "\u22125", "-$5", "$-5$", "-5.0", "-$5.00", r"-\frac{10}{2}"],
    ["3x+1", "$3x+1$", "$$3x + 1$$", r"\(3x + 1\)"],
    ["x^2+1", "x^2 + 1", "x² + 1", "x^{2}+1", "$x^2+1$"],
    [r"\sqrt{2}", r"\sqrt2", "√2", "sqrt(2)"],
    ["July 20, 1969", "1969-07-20", "20 July 1969", "July 20th, 1969", "20th of July, 1969", "Jul 20, 1969"],
    ["the cat", "cat", "A cat", "The Cat.", "a  cat"],
    ["6.02*10^23", r"6.02 \times 10^{23}", "6.02×10²³", "6.02e23", "6.02 x 10^23"],  # noqa: RUF001 - a reply's own sign
    [r"90^\circ", "90°", r"90^{\circ}"],
    [r"\{1,2\}", "{1, 2}"],
    [r"(3,\frac{\pi}{2})", r"(3,\pi/2)", r"\left( 3, \frac{\pi}{2} \right)"],
    [r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2", r"\dfrac{\sqrt3}2"],
    ["[0, 1)", r"\left[0, 1\right)"],
    ["don't", "don\u2019t"],
]

UNEQUAL: list[tuple[str, str]] = [
    ("42", "41"),
    ("42", "42%"),
    ("50%", "0.5"),
    ("50%", "50"),
    ("42", "-42"),
    ("42", "42 dollars"),
    ("42", "42 km"),
    ("42", "4 2"),
    ("1/3", "0.333333"),
    ("0.333333", "0.3333"),
    ("1/2", "2/1"),
    ("1,000", "1,00"),
    ("3.14", "3"),
    ("3.14", "14"),
    ("10^2", "102"),
    ("10²", "102"),
    ("1e999999999", "1e999999998"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "{1,2}"),
    ("[0,1)", "[0,1]"),
    ("(1,2)", "1,2"),
    ("(1,2)", "12"),
    ("A", "B"),
    ("A", "A cat"),
    ("Paris", "Paris, France"),
    ("2024-01-15", "15"),
    ("2024-01-15", "2024-01-16"),
    ("July 20, 1969", "1969"),
    ("x+1", "x-1"),
    ("x^2", "x2"),
    (r"\sqrt{2}", "2"),
    ("5 1/2", "51/2"),
    ("2**3", "23"),
    ("GPT-4", "4"),
    ("J. K. Rowling", "J. R. R. Tolkien"),
    ("(a) + (b)", "a"),
    ("yes", "no"),
    ("not 42", "42"),
    ("9" * 99, "9" * 98 + "8"),
    ("9" * 2000, "9" * 1999 + "8"),
]


def choice(text: str | None, finish: str | None = "stop", **message: Any) -> Choice:
    return Choice(0, {"role": "assistant", "content": text, **message}, finish)


def answer(text: str, kind: AnswerKind = "auto", **request: Any) -> Answer | None:
    return read(choice(text), AnswerSpec(kind), request)


def label(text: str, kind: AnswerKind = "auto", **request: Any) -> object:
    found = answer(text, kind, **request)
    return None if found is None else found.label


def tools(*calls: tuple[str, str]) -> JSON:
    body = [
        {"id": f"call_{i}", "type": "function", "function": {"name": n, "arguments": a}}
        for i, (n, a) in enumerate(calls)
    ]
    return {"tool_calls": body}


def test_there_are_enough_pairs_to_mean_something() -> None:
    assert len(EQUAL_PAIRS) + len(UNEQUAL) >= 120


EQUAL_PAIRS = [(group[0], other) for group in EQUAL for other in group[1:]]


@pytest.mark.parametrize(("first", "second"), EQUAL_PAIRS)
def test_two_spellings_of_one_answer_have_one_label(first: str, second: str) -> None:
    assert canonical(first) == canonical(second)
    assert canonical(first) is not None


@pytest.mark.parametrize(("first", "second"), UNEQUAL)
def test_two_answers_have_two_labels(first: str, second: str) -> None:
    assert canonical(first) != canonical(second)


def test_no_two_groups_of_spellings_share_a_label() -> None:
    for first, second in combinations(EQUAL, 2):
        assert canonical(first[0]) != canonical(second[0])


@pytest.mark.parametrize("nothing", ["", " ", ".", "...", "**", "$$", "()", "-", "?", r"\boxed{}"])
def test_an_empty_answer_has_no_label(nothing: str) -> None:
    assert canonical(nothing) is None


# what is found -------------------------------------------------------------------------------------------------------

MARKED: list[tuple[str, str]] = [
    ("The answer is 42.", "42"),
    ("The answer is: 42", "42"),
    ("the ANSWER IS therefore 42!", "42"),
    ("Thus the answer to the question is 42.", "42"),
    ("Answer: 3.14.", "3.14"),
    ("**Answer:** 42", "42"),
    ("**Answer**: 42", "42"),
    ("**Final Answer: 42**", "42"),
    ("**Final Answer**\n\n42", "42"),
    ("### Final answer\n\n$42$", "42"),
    ("The answer is\n\\[\n42\n\\]", "42"),
    ("The final answer is: **(B)**", "B"),
    ("The correct option is (D).", "D"),
    ("The answer is C) Rome.", "C"),
    ("The answer is **Paris**, the capital of France.", "Paris"),
    ("The answer is 42, since 6 x 7 = 42.", "42"),
    ("The answer is 42 because I counted.", "42"),
    ("The answer is 3.5. The next is 4.5.", "3.5"),
    ("The answer is Dr. Smith. He said so.", "Dr. Smith"),
    ("Is the answer 41? No. The answer is 42.", "42"),
    ("The answer is 41. Wait. The answer is 42.", "42"),
    (r"So \boxed{41}, no: \boxed{42}.", "42"),
    (r"\boxed{\frac{1}{2}} is larger than 0.4", "1/2"),
    (r"\boxed{} and \boxed{7}, or \boxed{}", "7"),
    (r"$\boxed{\text{Paris}}$", "Paris"),
    (r"\boxed 7", "7"),
    (r"\boxed{\{1, 2\}}", "{1,2}"),
    (r"\boxed{42}. The answer is 41.", "42"),
    ("We add.\n#### 42", "42"),
    ("#### 1,042\n", "1042"),
    ("#### Step 1\nWe add.\n#### 42", "42"),
    ("B", "B"),
    ("(B)", "B"),
    ("B)", "B"),
    ("**B**", "B"),
    ("B. Paris", "B"),
    ("Option B", "B"),
    ("B. Paris\n\nIt is on the Seine.", "B"),
]


@pytest.mark.parametrize(("text", "expected"), MARKED)
def test_a_marked_answer_is_found(text: str, expected: str) -> None:
    found = answer(text)
    assert found is not None
    assert found.label == canonical(expected)
    assert found.marked


SHORT: list[tuple[str, str]] = [
    ("42", "42"),
    ("I think it is 1,234.", "1234"),
    ("It is 42 km.", "42"),
    ("It is 5km away.", "5"),
    ("42!", "42"),
    ("6 * 7 = 42", "42"),
    ("It costs $3.50.", "3.5"),
    ("About 50%", "50%"),
    ("The probability is 3 / 4.", "3/4"),
    (r"The value is \frac{3}{4}", "3/4"),
    ("About 6.02 × 10^23 of them", "6.02e23"),  # noqa: RUF001 - a reply's own sign
    ("It was -40°C.", "-40"),
    ("On 2024-01-15.", "2024-01-15"),
    ("It landed on July 20, 1969.", "1969-07-20"),
    ("At 12:30.", "At 12:30"),
    ("It is GPT-4", "It is GPT-4"),
    ("192.168.0.1", "192.168.0.1"),
    ("v1.2.3", "v1.2.3"),
    ("1990s", "1990s"),
    ("2, 3, 5", "2, 3, 5"),
    ("x^2 + 1", "x^2+1"),
    ("y = 3x", "3x"),
    ("5 m", "5"),
    ("$5$ m", "5"),
    ("Paris", "Paris"),
    ("**Paris**.", "Paris"),
    ("Yes.", "yes"),
    ("Yes, 17 is prime.", "yes"),
    ("No, that is not so, as anyone can see who looks at it for long enough.", "no"),
    ("User: what? 42", "42"),
    ("<think>The answer is 41.</think>42", "42"),
    ("The answer is 41.</think>42", "42"),
]


@pytest.mark.parametrize(("text", "expected"), SHORT)
def test_a_short_reply_is_its_own_answer(text: str, expected: str) -> None:
    found = answer(text)
    assert found is not None
    assert found.label == canonical(expected)
    assert not found.marked


NOTHING = [
    "",
    "\n",
    "word " * 50 + "7",
    "This is a sentence of more than eight words without anything that counts.",
    "A. Paris\nB. Rome\nC. Athens",
    "<think>The answer is 42.",
    "<think>The answer is 42.</think>",
    "The answer is that it depends on a great many things which nobody has ever counted in all of history, as I said.",
    "#### Conclusion\n" + "It depends on many things. " * 20,
]


@pytest.mark.parametrize("text", NOTHING)
def test_prose_and_nothing_abstain(text: str) -> None:
    assert answer(text) is None


def test_reasoning_content_is_not_read() -> None:
    assert read(choice("", reasoning_content="The answer is 42."), AnswerSpec(), {}) is None


def test_the_text_of_parts_is_read() -> None:
    parts = [{"type": "text", "text": "The answer "}, {"type": "image"}, {"type": "text", "text": "is 42."}]
    found = read(Choice(0, {"content": parts}, "stop"), AnswerSpec(), {})
    assert found == Answer(("number", "42"), "42", marked=True, formula="42")


def test_a_long_answer_is_shown_cut_to_two_hundred_characters() -> None:
    found = answer(r"\boxed{" + "x + " * 100 + "x}")
    assert found is not None
    assert len(found.text) == 200
    assert found.text.endswith("…")


def test_the_tail_of_a_very_long_reply_is_read() -> None:
    assert label(r"\boxed{41} " + "so " * 100_000 + "the answer is 42.") == canonical("42")


# kinds ---------------------------------------------------------------------------------------------------------------

LONG = "First we count 3 of them, then we add what was there before, and so we come to the end of it, " * 2


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("number", "no number here", None),
        ("math", LONG + "which is 42 in all", "42"),
        ("math", "x^2 + 1", "x^2+1"),
        ("math", LONG + r"\boxed{x^2+1}", "x^2+1"),
        ("choice", LONG + "so (C) is right", "C"),
        ("choice", "I would say B is right", "B"),
        ("choice", "The answer is **Option D**.", "D"),
        ("choice", "A", "A"),
        ("choice", "None of them", None),
        ("label", "Spam", "spam"),
        ("label", LONG + "\nnot spam", "not spam"),
        ("label", "Label it.\nAnswer: spam", "spam"),
        ("text", "42", None),
        ("text", r"\boxed{42}", None),
        ("tool_calls", "42", None),
        ("json", "42 is it", None),
    ],
)
def test_a_kind_narrows_what_is_looked_for(kind: AnswerKind, text: str, expected: str | None) -> None:
    assert label(text, kind) == (None if expected is None else canonical(expected))


# JSON and tools ------------------------------------------------------------------------------------------------------

OBJECT = {"type": "json_object"}


def of(*members: str) -> str:
    return "{" + ",".join(members) + "}"


def schema(**parts: Any) -> JSON:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": {"type": "object", **parts}}}


@pytest.mark.parametrize(
    "text",
    [
        '{"b": 1.0, "a": [1, 2]}',
        '{"a":[1.0,2],\n"b":1}',
        '```json\n{"a": [1, 2], "b": 1e0}\n```',
        ' {"a":[1,2],"b":1} ',
    ],
)
def test_json_is_compared_by_what_it_says(text: str) -> None:
    found = answer(text, response_format=OBJECT)
    assert found is not None
    assert found.label == ("json", '{"a":[1,2],"b":1}')
    assert found.marked


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('{"a": 1}', '{"a": "1"}'),
        ('{"a": 1}', '{"a": true}'),
        ('{"a": [1, 2]}', '{"a": [2, 1]}'),
        ('{"a": 0}', '{"a": null}'),
    ],
)
def test_json_that_differs_in_type_or_order_is_another_answer(first: str, second: str) -> None:
    assert label(first, response_format=OBJECT) != label(second, response_format=OBJECT)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("1e23", "100000000000000000000000", True),
        ("1e2", "100.0", True),
        ("-0.0", "0", True),
        ("0.1", "0.10", True),
        ("9007199254740993", "9007199254740993.0", True),
        ("9007199254740993", "9007199254740992", False),
        (str(math.factorial(30)), str(math.factorial(30) + 1), False),
        ("9" * 5000, "9" * 5001, False),
        ("1e400", "1e401", False),
        ("1.5", "1.25", False),
    ],
)
def test_numbers_in_json_are_equal_by_their_value(first: str, second: str, same: bool) -> None:
    one, other = (label(of(f'"a": {number}'), response_format=OBJECT) for number in (first, second))
    assert one is not None
    assert (one == other) is same


PADDING = f'"p": "{"x" * MAX_EXACT}"'
UNREAD = f'"p": "{"x" * MAX_JSON}"'


def test_long_json_is_compared_by_what_it_says_and_longer_json_as_it_stands() -> None:
    def said(*members: str) -> object:
        found = label(of(*members), response_format=OBJECT)
        assert found is not None
        return found

    assert said(PADDING, '"a":1') == said('"a": 1', PADDING) != said('"a": 2', PADDING)
    assert said(UNREAD, '"a":1') != said('"a":1', UNREAD)
    assert said(UNREAD) == label(f" {of(UNREAD)}\n", response_format=OBJECT)


@pytest.mark.parametrize(
    "text",
    [
        f"[{of(PADDING)}]",
        f"[{of(UNREAD)}]",
        of(PADDING)[:-1],
        of(UNREAD)[:-1],
        of(PADDING, f'"a": {"[" * 500}{"]" * 500}'),
        "x" * (MAX_JSON + 1),
        " " * (MAX_JSON + 1),
    ],
)
def test_long_text_that_is_not_a_json_object_abstains_too(text: str) -> None:
    assert label(text, response_format=OBJECT) is None


@pytest.fixture
def _collected() -> Iterator[None]:
    """As in a server: what stands before is not looked through again for garbage."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_collected")
@pytest.mark.parametrize("piece", ["1", "1.5", "1e2", "1e99", "[]", "{}", '""', "99999999999999999999", "[[[[1]]]]"])
@pytest.mark.parametrize("size", [MAX_EXACT, MAX_JSON])
def test_json_of_any_kind_is_read_in_little_time(piece: str, size: int) -> None:
    pieces = [piece] * ((size - 10) // (len(piece) + 1))
    text = of(f'"a": [{",".join(pieces)}]')
    begun = time.thread_time()
    assert label(text, response_format=OBJECT) is not None
    # five times what it takes: it was more than a second
    assert time.thread_time() - begun < 0.1


@pytest.mark.parametrize(
    "text", ["", "42", "[1]", '{"a": 1', '{"a": NaN}', "The answer is 42.", "[" * 100_000, '{"a":' * 100_000, '"a"']
)
def test_what_is_not_a_json_object_abstains_where_one_was_asked_for(text: str) -> None:
    assert label(text, response_format=OBJECT) is None


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"n": 1, "s": "x"}', True),
        ('{"n": 1.0, "s": null}', True),
        ('{"n": 1}', False),
        ('{"n": "1", "s": "x"}', False),
        ('{"n": 1.5, "s": "x"}', False),
        ('{"n": true, "s": "x"}', False),
        ("[1]", False),
    ],
)
def test_json_that_does_not_fit_the_schema_abstains(text: str, fits: bool) -> None:
    properties = {"n": {"type": "integer"}, "s": {"type": ["string", "null"]}}
    wanted = schema(required=["n", "s"], properties=properties)
    assert (label(text, response_format=wanted) is not None) is fits


def test_tool_calls_are_compared_by_name_and_arguments() -> None:
    def called(*calls: tuple[str, str]) -> object:
        found = read(choice(None, "tool_calls", **tools(*calls)), AnswerSpec(), {})
        return None if found is None else found.label

    assert called(("add", '{"a": 1, "b": 2}')) == called(("add", '{"b":2.0,"a":1}'))
    assert called(("add", '{"a": 1}')) != called(("sub", '{"a": 1}'))
    assert called(("add", '{"a": 1}')) != called(("add", '{"a": 2}'))
    assert called(("now", "")) == called(("now", "{}"))
    assert called(("add", "{}"), ("sub", "{}")) == called(("sub", "{}"), ("add", "{}"))
    assert called(("add", '{"a": ')) is None
    assert called(("add", of('"a": 1', PADDING))) == called(("add", of(PADDING, '"a":1')))
    assert called(("add", of('"a": 1', PADDING))) != called(("add", of('"a": 2', PADDING)))
    assert called(("add", "{}"), ("sub", "{")) is None


def test_the_ids_of_tool_calls_do_not_count() -> None:
    first, second = tools(("add", "{}")), tools(("add", "{}"))
    second["tool_calls"][0]["id"] = "another"
    answers = [read(choice(None, **message), AnswerSpec(), {}) for message in (first, second)]
    assert answers[0] == answers[1] == Answer(("tool_calls", (("add", "{}"),)), "add({})", marked=True)


def test_text_is_read_as_text_where_tools_are_only_offered() -> None:
    assert label("The answer is 42.", tools=[{"type": "function"}]) == canonical("42")


# refusals ------------------------------------------------------------------------------------------------------------

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, I can\u2019t assist with that request.",
    "I cannot assist with that.",
    "I can't provide that.",
    "Sorry, I can't do that.",
    "I am unable to help with this request.",
    "Unfortunately, I cannot comply.",
    "As an AI language model, I cannot answer that.",
    "I won't help with that. Ask me about something else, such as cooking.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_in_words_is_a_ballot_of_its_own(text: str) -> None:
    found = answer(text)
    assert found is not None
    assert found.label == REFUSAL
    assert not found.marked


@pytest.mark.parametrize(
    "text",
    [
        "I cannot give a closed form, but the answer is 2.",
        "I'm sorry to hear that. The answer is 4.",
        "She said: I can't help it",
        "I can help with that: 42",
        "I'm sorry, I miscounted: it is 7",
    ],
)
def test_what_only_resembles_a_refusal_is_none(text: str) -> None:
    assert label(text) != REFUSAL


def test_all_kinds_of_refusal_are_one_ballot_that_beats_one_compliance() -> None:
    replies = [
        choice("Mix them: 42"),
        choice(None, refusal="No."),
        choice("", "content_filter"),
        *(choice(text) for text in REFUSALS[:3]),
    ]
    answers = [read(reply, AnswerSpec(), {}) for reply in replies]
    votes = plurality(None if found is None else found.label for found in answers)
    assert votes.counts == ((REFUSAL, 5), (canonical("42"), 1))


@pytest.mark.parametrize("kind", ["number", "choice", "label", "json", "tool_calls", "math"])
def test_a_refusal_is_a_ballot_in_every_kind(kind: AnswerKind) -> None:
    assert label(REFUSALS[0], kind) == REFUSAL


# votes ---------------------------------------------------------------------------------------------------------------


def test_five_spellings_of_42_beat_three_of_41() -> None:
    replies = ["41", r"\boxed{42}", "The answer is 42.", "41", "**42**", "$42$", "#### 42.0", "Answer: 41"]
    votes = plurality(label(reply) for reply in replies)
    assert votes.counts == ((canonical("42"), 5), (canonical("41"), 3))


def test_no_answer_never_wins() -> None:
    replies = ["", "word " * 60, "", "<think>hm", "word " * 70, "42"]
    votes = plurality(label(reply) for reply in replies)
    assert votes.leader == canonical("42")
    assert votes.abstained == 5


# worth a vote --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("The answer is 42.", True),
        ("42", True),
        (REFUSALS[0], True),
        ("word " * 100 + "\n#### 42", True),
        ("word " * 100, False),
        ("word " * 100 + "42", False),
        ("", False),
    ],
)
def test_after_one_reply_it_is_known_whether_a_vote_is_worth_having(text: str, worth: bool) -> None:
    reply = choice(text)
    assert votable(reply, read(reply, AnswerSpec(), {}), AnswerSpec(), {}) is worth


def test_configuration_decides_before_the_reply_does() -> None:
    prose, short = choice("word " * 100), choice("42")
    assert votable(prose, None, AnswerSpec(votable="always"), {})
    assert not votable(short, answer("42"), AnswerSpec(votable="never"), {})
    assert not votable(short, None, AnswerSpec("text"), {})
    assert votable(prose, None, AnswerSpec("number"), {})


def test_tool_calls_are_worth_a_vote() -> None:
    reply = choice(None, **tools(("add", "{}")))
    assert votable(reply, read(reply, AnswerSpec(), {}), AnswerSpec(), {})


@pytest.mark.parametrize(
    ("spec", "request_", "known"),
    [
        (AnswerSpec(), {}, False),
        (AnswerSpec("number"), {}, True),
        (AnswerSpec("text"), {}, False),
        (AnswerSpec("number", "never"), {}, False),
        (AnswerSpec(votable="always"), {}, True),
        (AnswerSpec(), {"response_format": OBJECT}, True),
        (AnswerSpec(), {"response_format": schema()}, True),
        (AnswerSpec(), {"response_format": {"type": "text"}}, False),
        (AnswerSpec(), {"tools": [{}], "tool_choice": "required"}, True),
        (AnswerSpec(), {"tools": [{}], "tool_choice": {"type": "function", "function": {"name": "add"}}}, True),
        (AnswerSpec(), {"tools": [{}], "tool_choice": "auto"}, False),
        (AnswerSpec(), {"tools": [{}]}, False),
    ],
)
def test_the_request_alone_may_say_that_a_vote_is_worth_having(spec: AnswerSpec, request_: JSON, known: bool) -> None:
    assert declared(spec, request_) is known


# the sample that is returned -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([Candidate("b"), Candidate("a")], 1),
        ([Candidate("a", truncated=True, score=1.0), Candidate("a", score=0.1)], 1),
        ([Candidate("a", truncated=True), Candidate("b")], 0),
        ([Candidate("a", score=0.1), Candidate("a", score=0.9), Candidate("b", score=1.0)], 1),
        ([Candidate("a"), Candidate("a", score=0.0)], 1),
        ([Candidate("a", mean_logprob=-0.5), Candidate("a", mean_logprob=-0.1)], 1),
        ([Candidate("a", score=0.9, mean_logprob=-0.5), Candidate("a", score=0.1, mean_logprob=-0.1)], 0),
        ([Candidate("a", length=1), Candidate("a", length=10), Candidate("a", length=100)], 1),
        ([Candidate("a", length=5), Candidate("a", length=5)], 0),
        ([Candidate("b", length=1), Candidate("a", length=1), Candidate("a", length=3)], 1),
    ],
)
def test_the_best_sample_with_the_label_is_returned(samples: list[Candidate], expected: int) -> None:
    assert winner(samples, "a") == expected


def test_without_a_label_the_first_complete_sample_is_returned() -> None:
    assert winner([Candidate(None, truncated=True), Candidate(None), Candidate(None)], None) == 1
    assert winner([Candidate(None, truncated=True), Candidate(None, truncated=True)], None) == 0


def test_a_label_that_no_sample_has_is_an_error() -> None:
    with pytest.raises(ValueError, match="no sample"):
        winner([Candidate("a")], "b")


def test_the_mean_log_probability_is_that_of_the_tokens() -> None:
    def told(logprobs: JSON | None) -> float | None:
        return mean_logprob(Choice(0, {}, "stop", logprobs))

    assert told({"content": [{"logprob": -0.5}, {"logprob": -1.5}]}) == -1.0
    assert told(None) is None
    assert told({"content": None}) is None
    assert told({"content": []}) is None


def test_a_reply_cut_at_its_limit_is_truncated() -> None:
    assert truncated(choice("42", "length"))
    assert not truncated(choice("42"))


@pytest.mark.parametrize(
    "text",
    [
        "I don't know.",
        "I don\u2019t know",
        "Not sure!",
        "No answer found",
        "N/A",
        "?",
        "The answer is",
        "The answer is ?",
        "The answer is ___",
        "Answer: I don't know",
        "#### ?",
        "The answer is N/A.",
    ],
)
def test_the_lack_of_an_answer_is_no_answer(text: str) -> None:
    assert read(Choice(0, {"content": text}, "stop"), AnswerSpec(), {}) is None


@pytest.mark.parametrize("text", ["None", "Na", "The answer is none of the above.", "0", "\u03c0", "Unknown Pleasures"])
def test_an_answer_that_sounds_like_none_is_one(text: str) -> None:
    assert read(Choice(0, {"content": text}, "stop"), AnswerSpec(), {}) is not None
