"""What each kind of answer looks for in a reply, and what it does where there is nothing to find."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.answers import REFUSAL, Answer, Reader, declared, votable
from proxy.answers.alike import alike
from proxy.answers.code import code_label
from proxy.answers.options import listed
from proxy.answers.question import asked
from proxy.answers.units import known, same, unknown
from proxy.answers.words import in_words
from proxy.types import JSON, AnswerKind, AnswerSpec, Choice

LONG = "First we count what is there, then we add what was there before, and so we come to the end of it. " * 3


def reply(text: str) -> Choice:
    return Choice(0, {"role": "assistant", "content": text}, "stop")


def read(text: str, spec: AnswerSpec | AnswerKind = "auto", request: JSON | None = None) -> Answer | None:
    spec = spec if isinstance(spec, AnswerSpec) else AnswerSpec(spec)
    return Reader(spec, request or {}).read(reply(text))


def label(text: str, spec: AnswerSpec | AnswerKind = "auto", request: JSON | None = None) -> Any:
    found = read(text, spec, request)
    return None if found is None else found.label


def user(text: Any) -> JSON:
    return {"messages": [{"role": "system", "content": "A) no\nB) no"}, {"role": "user", "content": text}]}


# number --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "unit", "written"),
    [
        ("42", "42", None, "42"),
        ("The answer is 5 km.", "5000", "m", "5"),
        ("5km", "5000", "m", "5"),
        ("50 cents", "1/2", "usd", "50"),
        ("$3.50", "7/2", "usd", "7/2"),
        (r"\boxed{\$3.50}", "7/2", "usd", "7/2"),
        ("$42$", "42", None, "42"),
        ("$42$ km", "42000", "m", "42"),
        ("50 %", "50", "%", "50"),
        ("42 apples", "42", "apple", "42"),
        ("42 boxes of eggs", "42", "box", "42"),
        ("42 times as many", "42", None, "42"),
        ("2 h 30 min", "9000", "s", None),
        ("60 mph", "16764/625", "m/s", "60"),
        ("12 sq ft", "435483/390625", "m^2", "12"),
        ("seven dwarfs", "7", "dwarf", "7"),
        ("twenty-one", "21", None, "21"),
        ("3 million", "3000000", None, "3000000"),
        ("-2.5e3", "-2500", None, "-2500"),
        (LONG + "It is 42 km", "42000", "m", "42"),
        ("We have 3 + 9 = 12 eggs", "12", "egg", "12"),
        ("The answer is 12 eggs, i.e. 3 + 9", "12", "egg", "12"),
        ("The answer is 5 km = 5000 m", "5000", "m", "5000"),
        ("5 years old", "5", "year", "5"),
        ("3 in a row", "3", None, "3"),
        ("3 in", "381/5000", "m", "3"),
    ],
)
def test_a_number_has_its_value_in_the_base_unit_and_is_kept_as_written(
    text: str, value: str, unit: str | None, written: str | None
) -> None:
    assert label(text, "number") == ("quantity", value, unit, written)


@pytest.mark.parametrize(
    "text",
    [
        *("GPT-4", "12:30", "192.168.0.1", "the 1990s", "21st", "2^10", "3-5", "2\u03c0", "no one", "A4", "x2"),
        *("one hundred and five", "two thousand five hundred", "9" * 200, "1e999", "1/0", "", "\u0664"),
    ],
)
def test_what_is_no_number_abstains(text: str) -> None:
    assert label(text, "number") is None


def test_a_megabyte_of_digits_abstains() -> None:
    assert label("9" * 1_000_000, "number") is None


def test_digits_go_before_numbers_in_words() -> None:
    assert label("All seven of them have 3", "number") == ("quantity", "3", None, "3")


@given(st.integers(min_value=0, max_value=99))
def test_numbers_below_a_hundred_are_read_in_words(value: int) -> None:
    ones = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    ones += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
    tens = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    name = ones[value] if value < 20 else tens[value // 10] + (f"-{ones[value % 10]}" if value % 10 else "")
    assert in_words(name) == value
    assert label(f"There are {name} apples.", "number") == (
        None if value == 1 else ("quantity", str(value), "apple", str(value))
    )


@pytest.mark.parametrize(
    ("one", "other", "tolerance", "wanted"),
    [
        ("100", "99", 0.01, True),
        ("100", "98.99", 0.01, False),
        ("1 km", "990 m", 0.01, True),
        ("100 km", "99", 0.01, True),
        ("0", "0", 0.5, True),
        ("0", "0.001", 0.5, False),
        ("10", "9", 0.1, True),
        ("-10", "-9", 0.1, True),
        ("-10", "10", 0.9, False),
        ("5 apples", "5 pears", 0.9, False),
        ("2 h 30 min", "150", 0.9, False),
    ],
)
def test_a_tolerance_is_relative_to_the_larger_of_two(one: str, other: str, tolerance: float, wanted: bool) -> None:
    spec = AnswerSpec("number", tolerance=tolerance)
    first, second = read(one, spec), read(other, spec)
    assert first is not None
    assert second is not None
    assert alike(first, second, spec) is wanted
    assert alike(second, first, spec) is wanted


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("km", "kilometres"),
        ("KM", "kilometer"),
        ("m^2", "square metres"),
        ("cm^3", "ml"),
        ("km/h", "kilometers per hour"),
        ("kph", "km/h"),
        ("ft", "feet"),
        ("per cent", "%"),
        ("degrees Celsius", "°C"),
        ("$", "dollars"),
    ],
)
def test_names_of_one_unit_are_one_unit(one: str, other: str) -> None:
    assert known(one) == known(other) is not None


@pytest.mark.parametrize("name", ["M", "x", "apple", "", "/", "per", "km/", "square", "squared apples", "2"])
def test_other_words_are_in_no_table(name: str) -> None:
    assert known(name) is None


def test_unknown_units_are_alike_in_singular_and_plural_and_where_one_says_more() -> None:
    assert unknown(["Apples"]) == unknown(["apple"])
    assert unknown(["boxes"]) == "box"
    assert unknown(["glasses"]) == "glass"
    assert unknown(["berries"]) == "berry"
    assert unknown(["people"]) == unknown(["person"])
    assert same("red marble", "marble")
    assert same("marble", "red marble")
    assert not same("red marble", "blue marble")
    assert not same("m", "m/s")


# math and formulas ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (r"\boxed{42\text{ cm}}", "42"),
        (r"\boxed{42^\circ}", "42"),
        ("The answer is 42 dollars.", "42"),
        ("The answer is 42 km/h.", "42"),
        (r"$42^\circ$", "42"),
        (r"\boxed{\frac{1}{2}\text{ mile}}", "1/2"),
    ],
)
def test_a_unit_after_the_one_number_of_a_mathematical_answer_is_left_out(text: str, said: str) -> None:
    found = read(text, "math")
    assert found is not None
    assert found.label == ("number", said)
    assert found.formula == said


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{5 m}",
        r"\boxed{5x}",
        r"\boxed{3 ab}",
        "The answer is 5 factorial.",
        "The answer is 3 and 4 apples.",
        r"\boxed{2 \log 3}",
        r"\boxed{50\%}",
        r"\boxed{2 h 30 min}",
    ],
)
def test_what_may_be_more_than_a_number_and_a_unit_stays_as_it_is(text: str) -> None:
    assert label(text, "math")[0] != "number"


@pytest.mark.parametrize("kind", ["math", "auto"])
@pytest.mark.parametrize(
    ("text", "formula"),
    [
        (r"\boxed{11\sqrt5+11}", r"11\sqrt5+11"),
        (r"The answer is $11(1+\sqrt5)$.", r"11(1+\sqrt5)"),
        (r"\boxed{\frac{9a+11}{20}}", r"\frac{9a+11}{20}"),
        (r"\boxed{1\pm\sqrt{19}}", r"1\pm\sqrt{19}"),
        (r"\boxed{(1, \sqrt 2)}", r"(1, \sqrt 2)"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{2, 3, 5}", "2, 3, 5"),
        (r"\boxed{x < 2}", "x < 2"),
        (r"\boxed{2516_8}", "2516_8"),
        (r"\boxed{\pi}", r"\pi"),
        (r"\boxed{2x}", "2x"),
        (r"\boxed{x=2 \text{ or } x=3}", r"x=2 \text{ or } x=3"),
        (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"\boxed{\frac{84}{2}}", "42"),
        ("42", "42"),
        ("$x^2 + 1$", "x^2 + 1"),
        (r"\(x^2 + 1\)", "x^2 + 1"),
    ],
)
def test_a_formula_is_kept_as_the_reply_writes_it(text: str, formula: str, kind: AnswerKind) -> None:
    found = read(text, kind)
    assert found is not None
    assert found.formula == formula


@pytest.mark.parametrize(
    "text",
    [
        "Paris",
        "B",
        r"\boxed{\text{(B)}}",
        "July 20, 1969",
        r"\boxed{50\%}",
        "GPT-4",
        "The answer is Paris, France.",
        r"\boxed{" + "x+" * 100 + "x}",
        r"\boxed{" + "(" * 21 + "x+1" + ")" * 21 + "}",
        r"\boxed{" + "x + " * 400 + "x}",
        "The answer is 12:30",
        "I cannot help with that.",
    ],
)
def test_words_dates_and_what_is_too_long_or_too_deep_have_no_formula(text: str) -> None:
    found = read(text)
    assert found is not None
    assert found.formula is None


def test_only_formulas_are_left_to_algebra() -> None:
    def told(one: str, other: str, kind: AnswerKind = "math") -> bool | None:
        first, second = read(one, kind), read(other, kind)
        assert first is not None
        assert second is not None
        assert alike(first, second, AnswerSpec(kind)) == alike(second, first, AnswerSpec(kind))
        return alike(first, second, AnswerSpec(kind))

    assert told(r"\boxed{11\sqrt5+11}", r"\boxed{11(1+\sqrt5)}") is None
    assert told(r"\boxed{2^{-1}}", "0.5") is None
    assert told(r"\boxed{\frac13}", "0.333333") is False
    assert told("42", "41") is False
    assert told("The answer is Paris.", r"\boxed{x+1}") is False
    assert told(r"\boxed{50\%}", "0.5") is False
    assert told("42", "5 apples", "number") is False


# choice --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("Which?\nA) Paris\nB) Rome", ("Paris", "Rome")),
        ("Which?\n(A) Paris\n(B) Rome", ("Paris", "Rome")),
        ("Which?\nA. Paris\nB. Rome", ("Paris", "Rome")),
        ("Which?\nA: Paris\nB: Rome", ("Paris", "Rome")),
        ("Which?\n[A] Paris\n[B] Rome", ("Paris", "Rome")),
        ("Which?\n- **A)** Paris\n- **B)** Rome", ("Paris", "Rome")),
        ("Which?\na) Paris\nb) Rome", ("Paris", "Rome")),
        ("Which: (A) red, (B) green, or (C) blue?", ("red", "green", "blue")),
        ("A) 1 B) 2\nNo, rather:\nA) 3\nB) 4", ("3", "4")),
        ("A) 1\nB) 2\nReply with A) or B) alone.", ("1", "2")),
        ("A) Vitamin B) rich\nB) plain\nC) other", ("Vitamin B) rich", "plain", "other")),
        ("\n".join(f"{letter}) {place}" for place, letter in enumerate("ABCDEFGHIJ")), tuple("0123456789")),
        ("A) alone", ()),
        ("B) Paris\nC) Rome", ()),
        ("A) Paris\nC) Rome", ()),
        ("A) same\nB) same", ()),
        ("A)\nB)", ()),
        ("What is 6 x 7?", ()),
        ("Expand p(x) = (x - a)(x - b) for real a and b.", ()),
        ("Which: (a) red or (b) green?", ("red", "green")),
    ],
)
def test_the_options_of_a_prompt_are_those_that_follow_each_other_from_a_on(
    prompt: str, texts: tuple[str, ...]
) -> None:
    assert listed(prompt) == texts


def test_the_options_are_those_of_the_last_user_turn_in_whatever_form_it_comes() -> None:
    listed_ = "Which?\nA) Paris\nB) Rome"
    assert label("Rome", "choice", user(listed_)) == ("text", "b")
    assert label("Rome", "choice", user([{"type": "text", "text": listed_}])) == ("text", "b")
    assert label("no", "choice", user("Which?")) is None
    assert label("Rome", "choice", {"messages": [{"role": "user", "content": listed_}, {"role": "user"}]}) is None
    assert asked(user("word " * 10_000 + listed_)).endswith(listed_)


@pytest.mark.parametrize("request_", [{}, {"messages": None}, {"messages": [None, 7, {"role": "user", "content": 7}]}])
def test_a_request_without_a_readable_turn_lists_no_options(request_: JSON) -> None:
    assert label("Rome", "choice", request_) is None
    assert label("B", "choice", request_) == ("text", "b")


def test_a_letter_goes_before_a_text_that_contradicts_it() -> None:
    assert label("B) Paris", "choice", user("A) Paris\nB) Rome")) == ("text", "b")


def test_configured_options_have_letters_in_their_order_and_go_before_the_prompt() -> None:
    spec = AnswerSpec("choice", options=("Oslo", "B) Bern"))
    prompt = user("A) Bern\nB) Oslo")
    assert [label(text, spec, prompt) for text in ("Oslo", "bern", "A", "b")] == [
        ("text", letter) for letter in ("a", "b", "a", "b")
    ]


def test_two_options_in_a_sentence_are_no_choice() -> None:
    assert label("Rome or Paris", "choice", user("A) Paris\nB) Rome")) is None


@pytest.mark.parametrize("text", ["The answer is Rome.", "Rome", r"\boxed{\text{Rome}}"])
def test_auto_resolves_the_text_of_an_option_and_is_as_sure_of_it_as_before(text: str) -> None:
    prompt = user("A) Paris\nB) Rome")
    with_options, without = read(text, "auto", prompt), read(text)
    assert with_options is not None
    assert without is not None
    assert with_options.label == ("text", "b")
    assert with_options.marked is without.marked
    assert votable(reply(text), with_options, AnswerSpec(), prompt) is votable(reply(text), without, AnswerSpec(), {})


def test_auto_never_looks_for_options_in_prose() -> None:
    prompt = user("A) " + "a long text of many words which goes on and on " * 3 + "\nB) Rome")
    assert label(LONG + "Rome", "auto", prompt) is None
    assert label("It is Rome, I think.", "auto", prompt) == ("text", "it is rome, i think")


# label ---------------------------------------------------------------------------------------------------------------

SPAM = AnswerSpec("label", options=("Spam", "Not spam", "N/A"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Spam", "spam"),
        ("This is not spam.", "not spam"),
        ("It says spam and not spam.\nspam", "spam"),
        ("It says spam. The answer is not spam. So be it.", "not spam"),
        ("N/A", "n/a"),
        (LONG + "So it is spam.", "spam"),
        ("spam or not spam", None),
        ("It isn't spam.", None),
        ("It is not a spam.", None),
        ("spammers", None),
        ("ham", None),
    ],
)
def test_a_label_is_the_one_option_that_a_reply_names(text: str, found: str | None) -> None:
    assert label(text, SPAM) == (None if found is None else ("text", found))


def test_an_option_with_marks_in_it_is_found_whole() -> None:
    spec = AnswerSpec("label", options=("C", "C++", "4", "4.5"))
    assert label("It is written in C++.", spec) == ("text", "c++")
    assert label("I rate it 4.5 of all.", spec) == ("number", "9/2")


def test_options_that_say_nothing_are_never_found() -> None:
    assert label("?", AnswerSpec("label", options=("?", ""))) is None


# regex ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"verdict: (\w+)", "verdict: no, verdict: yes", "yes"),
        (r"verdict: \w+", "Verdict: no, verdict: yes", "verdict: yes"),
        (r"(\w+)=(?P<answer>\w+)", "a=no b=Yes", "yes"),
        (r"a=(\d)?", "a=", None),
        (r"verdict: (\w+)", "nothing", None),
        (r"<(.*)>", "<>", None),
        (r"\d+", "<think>41</think>none", None),
    ],
)
def test_the_last_match_of_a_pattern_is_the_answer(pattern: str, text: str, found: str | None) -> None:
    assert label(text, AnswerSpec("regex", pattern=pattern)) == (None if found is None else ("text", found))


def test_without_a_pattern_nothing_is_found() -> None:
    assert label("42", "regex") is None


# code ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na = 1\n```", "a = 1"),
        ("```\nold\n```\ntext\n```\nnew\n```\nmore text", "new"),
        ("a = 1", "a = 1"),
        ("```\n\n```", None),
        ("```\nold\n```\n```\n```", "old"),
        ("````md\n```\na\n```\n````", "```\na\n```"),
        ("```\nnever closed", "never closed"),
        ("I don't know.", None),
        ("", None),
    ],
)
def test_the_last_block_of_code_is_the_answer(text: str, code: str | None) -> None:
    assert label(text, "code") == (None if code is None else code_label(code))


def test_a_block_is_pointed_out_and_a_refusal_is_none() -> None:
    block, whole = read("```\na\n```", "code"), read("a = 1", "code")
    assert block is not None
    assert whole is not None
    assert (block.marked, whole.marked) == (True, False)
    assert label("I'm sorry, but I can't help with that.", "code") == REFUSAL
    assert label("I can't help with all of it, but:\n```\na\n```", "code") == code_label("a")


@given(st.lists(st.text(alphabet="ab ()=:", min_size=1, max_size=12), min_size=1, max_size=6))
def test_layout_without_meaning_does_not_change_code(lines: list[str]) -> None:
    plain = code_label("\n".join(lines))
    assert code_label("\r\n".join(f"    {line}  \n" for line in lines)) == plain
    assert (
        code_label("\n\n".join(lines).replace("    ", "\t") if "    " in lines[0][:4] else "\n\n".join(lines)) == plain
    )


# all -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        *(AnswerSpec(kind) for kind in ("math", "number", "choice", "label", "code")),
        SPAM,
        AnswerSpec("regex", pattern="verdict: (.*)"),
        AnswerSpec("choice", options=("Rome", "Paris")),
    ],
    ids=lambda spec: f"{spec.kind} {len(spec.options)}",
)
def test_a_refusal_is_a_ballot_of_every_kind(spec: AnswerSpec) -> None:
    assert label("I'm sorry, but I can't help with that.", spec) == REFUSAL


@pytest.mark.parametrize(
    ("spec", "known_"),
    [
        *((AnswerSpec(kind), True) for kind in ("math", "number", "choice", "label", "regex", "code", "json_path")),
        (AnswerSpec(), False),
        (AnswerSpec("text"), False),
        (AnswerSpec("text", pick="central"), True),
        (AnswerSpec("text", pick="universal"), True),
        (AnswerSpec("text", "never", pick="central"), False),
        (AnswerSpec("code", "never"), False),
    ],
)
def test_every_configured_kind_is_worth_a_vote_and_a_text_where_one_is_to_be_picked(
    spec: AnswerSpec, known_: bool
) -> None:
    assert declared(spec, {}) is known_
    assert votable(reply(LONG), None, spec, {}) is known_


def test_a_text_never_votes() -> None:
    assert label("42", AnswerSpec("text", pick="central")) is None


def test_a_label_is_shown_as_its_option_is_written_and_not_as_the_sentence_that_names_it() -> None:
    spec = AnswerSpec("label", options=("Positive", "Negative"))
    answer = read("This review is negative, all things considered.", spec)
    assert answer is not None
    assert answer.text == "Negative"
