"""Which replies say the same, over all kinds of answers, and what that does to a vote."""

from typing import Any, get_args

import pytest

from proxy.answers import Answer, Reader, truncated
from proxy.answers.alike import alike
from proxy.core.vote import Ballot, Rule, poll
from proxy.types import JSON, AnswerKind, AnswerSpec, Choice

Reply = str | list[tuple[str, str]]
"""The text of a reply, or the names and arguments of the tools it calls."""
Pairs = list[tuple[Reply, Reply]]

CITIES: JSON = {
    "messages": [
        {"role": "user", "content": "Which city is the capital of Italy?\nA) Paris\nB) Rome\nC) New York\nD) York"}
    ]
}
SUMS: JSON = {"messages": [{"role": "user", "content": "How much is 3 + 4? (A) 6 (B) 7 (C) 8, or (D) none of them."}]}
OBJECT: JSON = {"response_format": {"type": "json_object"}}

MATH_SAME: Pairs = [
    (r"Adding them up gives \boxed{42}.", "The answer is 42."),
    (r"Hence $\boxed{42}$.", "So we have **42**"),
    ("#### 42", "After all these steps the final answer is 42.0"),
    (r"\boxed{42\text{ cm}}", "The answer is 42."),
    (r"The answer is $42\text{ dollars}$.", r"Therefore \boxed{42}"),
    ("The answer is 42 dollars.", "Answer: 42"),
    (r"The angle is \boxed{42^\circ}.", r"\boxed{42}"),
    (r"\boxed{42^{\circ}}", r"The answer is $42^\circ$."),
    (r"\boxed{12\text{ cm}^2}", r"\boxed{12}"),
    (r"\boxed{7 \text{ units}}", "The answer is 7."),
    (r"\boxed{5\,\mathrm{m}}", r"\boxed{5}"),
    (r"We get \boxed{\frac{1}{2}}.", "The answer is 0.5."),
    (r"\boxed{\dfrac12}", r"Half of it: \boxed{\tfrac{1}{2}}"),
    (r"\boxed{-\frac{3}{4}}", "The final answer is -0.75"),
    (r"\boxed{1{,}000}", "The answer is 1,000."),
    (r"\boxed{10^3}", r"\boxed{1000}"),
    (r"\boxed{5\frac12}", "The answer is 11/2"),
    (r"Thus $x = \boxed{9}$.", r"\boxed{x = 9}"),
    (r"\boxed{x^2 + 1}", r"The answer is $x^2+1$."),
    (r"\boxed{\sqrt{2}}", r"The answer is $\sqrt2$."),
    (r"\boxed{\frac{\sqrt{3}}{2}}", r"\boxed{\dfrac{\sqrt3}2}"),
    (r"\boxed{(1, 2)}", r"The point is \boxed{\left( 1, 2 \right)}."),
    (r"\boxed{[0, 1)}", r"\boxed{\left[0,1\right)}"),
    (r"\boxed{\{1, 2\}}", r"The answer is $\{1,2\}$."),
    (r"\boxed{\text{Evelyn}}", "The answer is Evelyn."),
    (r"\boxed{\text{(B)}}", "The answer is (B)."),
    (r"\boxed{\pi}", "The answer is \u03c0."),
    (r"\boxed{2\pi}", r"The answer is $2\pi$."),
    (r"First \boxed{41}; on second thought \boxed{42}", "#### 42"),
    ("<think>Maybe 41? The answer is 41.</think>The answer is 42.", r"\boxed{42}"),
    (r"\boxed{50\%}", "The answer is 50%."),
    ("The answer is 42 because six sevens are that.", "The answer is 42, as we saw."),
    ("We find that the answer is:\n\n$$42$$", "42"),
    (r"\boxed{6.02 \times 10^{23}}", "The answer is 6.02e23"),
    (r"\boxed{2, 3, 5}", "The answer is 2, 3, 5."),
    (r"\boxed{18 \text{ eggs}}", r"\boxed{18}"),
    (r"The answer is $11,\! 111,\! 100$.", r"\boxed{11111100}"),
    ("The answer is x^4 + x^3 + x^2 + x + 1 + 2 y^2 + 3 y.", r"\boxed{x^4+x^3+x^2+x+1+2y^2+3y}"),
    (r"\boxed{\infty}", r"The answer is $\infty$."),
    (r"\boxed{<}", r"The answer is $<$."),
    (r"\boxed{\left| x \right|}", r"\boxed{|x|}"),
    ("| 42 |", r"\boxed{42}"),
    (r"\boxed{1.234,56}", "The answer is 1,234.56."),
    (r"\boxed{\frac{1}{2x}}", r"\boxed{1/(2x)}"),
    (r"\boxed{A \text{ and } C}", "The answer is (A) and (C)."),
]
MATH_DIFFERENT: Pairs = [
    (r"\boxed{42}", r"\boxed{41}"),
    ("The answer is 42.", "The answer is -42."),
    (r"\boxed{42\text{ cm}}", r"\boxed{43\text{ cm}}"),
    (r"\boxed{\frac{1}{3}}", "The answer is 0.333333."),
    (r"\boxed{0.333333}", r"\boxed{0.3333}"),
    (r"\boxed{50\%}", r"\boxed{50}"),
    (r"\boxed{50\%}", r"\boxed{0.5}"),
    (r"\boxed{(1,2)}", r"\boxed{(2,1)}"),
    (r"\boxed{(1,2)}", r"\boxed{[1,2]}"),
    (r"\boxed{[0,1)}", r"\boxed{[0,1]}"),
    (r"\boxed{x^2}", r"\boxed{x^3}"),
    (r"\boxed{x+1}", r"\boxed{x-1}"),
    (r"\boxed{2\pi}", r"\boxed{2}"),
    (r"\boxed{5x}", r"\boxed{5}"),
    (r"\boxed{5 m}", r"\boxed{5}"),
    (r"\boxed{3 ab}", r"\boxed{3}"),
    (r"\boxed{5!}", r"\boxed{5}"),
    ("The answer is 5 factorial.", "The answer is 5."),
    (r"\boxed{4 \sqrt{2}}", r"\boxed{4}"),
    (r"\boxed{\text{Evelyn}}", r"\boxed{\text{Carla}}"),
    (r"\boxed{10^2}", r"\boxed{102}"),
    (r"\boxed{2516_8}", r"\boxed{2516}"),
    (r"\boxed{3 \text{ and } 4}", r"\boxed{3}"),
    ("The answer is 42 or 43.", "The answer is 42."),
    ("The answer is 3.14.", r"\boxed{\pi}"),
    ("The answer is Paris.", "The answer is 42."),
    (r"\boxed{2,3}", r"\boxed{23}"),
    (r"\boxed{x < 2}", r"\boxed{x > 2}"),
    (r"\boxed{1/2}", r"\boxed{2/1}"),
    (r"\boxed{9^{9^{9^9}}}", r"\boxed{9^{9^9}}"),
    (r"\boxed{\infty}", r"\boxed{-\infty}"),
    (r"\boxed{<}", r"\boxed{>}"),
    (r"\boxed{>5}", r"\boxed{5}"),
    (r"\boxed{\frac{1}{2}x}", r"\boxed{\frac{1}{2x}}"),
    (r"\boxed{\frac{\sqrt{2}}{2}x}", r"\boxed{\frac{\sqrt{2}}{2x}}"),
    (r"\boxed{3\frac{1}{x}}", r"\boxed{\frac{31}{x}}"),
    (r"\boxed{1 12}", r"\boxed{11 2}"),
    (r"\boxed{|x|}", r"\boxed{x}"),
    (r"\boxed{n!}", r"\boxed{n}"),
    (r"\boxed{y'}", r"\boxed{y}"),
    (r"\boxed{R - r}", r"\boxed{r - R}"),
    (r"\boxed{\Delta}", r"\boxed{\delta}"),
    (r"\boxed{\text{AaBb}}", r"\boxed{\text{AABB}}"),
    (r"\boxed{\sim p}", r"\boxed{p}"),
    ("It is x = 3 and y = 4.", "It is x = 5 and y = 4."),
    ("(a) 3, (b) 4", "(a) 5, (b) 4"),
    ("The answer is (A) and (C).", "The answer is (A)."),
    ("I could not find it.", r"\boxed{42}"),
    ("I don't know.", "I don't know."),
    ("", ""),
    ("<think>The answer is 42.", "The answer is 42."),
]

NUMBER_SAME: Pairs = [
    ("The train covers 42 km.", "The answer is 42."),
    ("It is 5 km away.", "It is 5000 m away."),
    ("The answer is 5 kilometres.", "5,000 meters"),
    ("That makes 50%.", "That makes 50 percent."),
    ("That makes 50 per cent of them.", "50"),
    ("She pays $3.50.", "She pays 350 cents."),
    ("The answer is $18.", "She earns 18 dollars a day."),
    (r"\boxed{\$18}", "18 USD"),
    ("It costs \u20ac42.", "The price is 42 euros."),
    ("\u00a37", "seven pounds of sugar cost 7"),
    ("There are 42 apples in total.", "There is a total of 42 apples."),
    ("He has 1 apple left.", "The answer is 1 apple."),
    ("12 children came.", "The answer is 12."),
    ("It takes 2 hours and 30 minutes.", "It takes 150 minutes."),
    ("1 h 30 min", "The answer is 1.5 hours."),
    ("The answer is 90 minutes.", "One and a half: 1.5 hours"),
    ("He is 5 feet 6 inches tall.", "The answer is 66 inches."),
    ("3 weeks", "It lasts 21 days."),
    ("The answer is 2 days.", "That is 48 hours."),
    ("1 kg", "The bag weighs 1000 grams."),
    ("16 oz", "The answer is 1 lb."),
    ("1 litre of milk", "1000 ml"),
    ("1000 cm^3", "It holds 1 liter."),
    ("12 square meters", "The area is 12 m\u00b2."),
    ("36 km/h", "Its speed is 10 m/s."),
    ("60 miles per hour", "60 mph"),
    ("It turns by 90 degrees.", r"\boxed{90^\circ}"),
    ("It was -40\u00b0C.", "The answer is -40 degrees Celsius."),
    ("forty-two", "The answer is 42."),
    ("There are seven apples.", "7 apples"),
    ("The answer is twelve.", "#### 12"),
    ("5 million people", "The answer is 5,000,000 people."),
    ("two hundred", "200"),
    ("1/2 cup", "The answer is 0.5 cups."),
    ("5 1/2 miles", "The answer is 5.5 miles."),
    ("The answer is 12 apples (3 + 9).", "3 + 9 = 12"),
    ("We count 3, then 4, and 5, which gives 12 in all, says GPT-4.", "12"),
    ("3 in", "The answer is 3 inches."),
    ("It ends with 42.", "**42**"),
    ("1,234.50", "$1234.5"),
    ("2.5 x 10^3 m", "The answer is 2.5 km."),
    ("5 blue marbles", "The answer is 5 marbles."),
    ("It costs 1.234,56 \u20ac.", "It costs \u20ac1,234.56."),
    ("1.234.567", "1 234 567"),
    ("It weighs 5 kg [1].\n\n[1]: a book", "It weighs 5 kg."),
    ("She sold it for $1.5B.", "1.5 billion dollars"),
    ("It takes 5 \u00b1 0.2 s.", "The answer is 5."),
    ("He is 5'6\" tall.", "5 feet 6 inches"),
    ("He got 3 out of 5 right.", "He got 3 right."),
    ("The probability is 1/4, or 25%.", "25%"),
]
NUMBER_DIFFERENT: Pairs = [
    ("The answer is 5 km.", "The answer is 5 m."),
    ("The answer is 0.5.", "The answer is 50%."),
    ("The answer is 42 km.", "The answer is 43 km."),
    ("The answer is 42 apples.", "The answer is 42 pears."),
    ("5 million", "5 thousand"),
    ("5 million", "5"),
    ("$18", "18 cents"),
    ("$18", "\u20ac18"),
    ("2 hours", "2 minutes"),
    ("2 hours and 30 minutes", "30 minutes"),
    ("2 hours and 30 minutes", "2 hours"),
    ("150", "It takes 2 hours and 30 minutes."),
    ("20 degrees Celsius", "20 degrees Fahrenheit"),
    ("12 m^2", "12 m"),
    ("12 m^2", "12 m^3"),
    ("60 mph", "60 km/h"),
    ("1 kg", "1 lb"),
    ("1/3", "0.333333"),
    ("-5 m", "5 m"),
    ("1,000", "1,00"),
    ("forty-two", "forty-three"),
    ("twelve", "20"),
    ("3.14", "3"),
    ("3 dozen", "3"),
    ("The answer is 1 1/2.", "The answer is 1/2."),
    ("no number at all", "no number at all"),
    ("It is GPT-4.", "4"),
    ("At 12:30.", "30"),
    ("In the 1990s.", "1990"),
    ("2\u03c0", "2"),
    ("10^3", "103"),
    ("Between 3-5", "5"),
    ("42 red marbles", "42 blue marbles"),
    ("He came 4th.", "4"),
    ("It costs 1.234,56 \u20ac.", "It costs 1.234,57 \u20ac."),
    ("It is 5,000 [1].", "It is 6,000 [1]."),
    ("$5k", "$5"),
    ("$1.5B", "$1.5M"),
    ("5M", "5 m"),
    ("It takes 5 +/- 0.2 s.", "It takes 6 +/- 0.2 s."),
    ("He is 5'6\" tall.", "He is 4'6\" tall."),
    ("3 out of 5", "2 out of 5"),
    ("The answer is between 3 and 5.", "5"),
    ("It takes 3 to 5 days.", "5 days"),
    ("twenty-first", "20"),
    ("two thirds", "2"),
    ("3 and a half", "3"),
]
NEAR_SAME: Pairs = [
    ("The answer is 100.", "The answer is 99."),
    ("100 km", "99,000 m"),
    ("3.14", "3.15"),
    ("-100", "-101"),
    ("1/3", "0.333333"),
    ("1e6 m", "1005 km"),
    ("100 km", "101"),
]
NEAR_DIFFERENT: Pairs = [
    ("The answer is 100.", "The answer is 98."),
    ("100 km", "99 m"),
    ("100", "-100"),
    ("0", "0.001"),
    ("50%", "0.5"),
    ("3 apples", "3 pears"),
]

CHOICE_SAME: Pairs = [
    ("B", "The answer is (B)."),
    ("(b)", "**B**"),
    ("B) Rome", "The correct option is B."),
    ("Rome", "B"),
    ("The answer is Rome.", "B. Rome"),
    ("I would say Rome.", "Option B"),
    ("It is **Rome**, of course.", "B:"),
    ("We think about it for long.\nRome", "b"),
    ("It's Rome, as all roads tell.", r"\boxed{\text{Rome}}"),
    (r"\boxed{B}", "After all, (B) is right."),
    ("C) New York", "The answer is New York."),
    ("York", "D"),
    ("The answer is York.", r"\boxed{D}"),
    ("B) Paris", "B"),
    ("Answer: B, for Paris is in France.", "The answer is Rome"),
    ("Clearly ROME!", '"Rome"'),
    ("The answer is B because it is Rome.", "Rome."),
    ("It is not Paris, it is Rome.", "B"),
    ("The answer is B, not C.", "B"),
    ("The answer is B (C is in the south).", "B"),
    ("It is B; C and D are wrong.", "B"),
    ("Option C is wrong. Option B is right.", "B"),
    ("**B**\n\n" + "So it has been for many years. " * 10 + "(C) is far from there.", "B"),
    ("Both A and C", "The answer is (A) and (C)."),
    ("A, C", "A and C"),
    ("B!", "B"),
]
CHOICE_DIFFERENT: Pairs = [
    ("A", "B"),
    ("Paris", "Rome"),
    ("Paris", "B"),
    ("B) Paris", "A"),
    ("New York", "York"),
    ("The answer is New York.", "The answer is York."),
    ("C", "D"),
    ("Rome or Paris, who knows", "Rome or Paris, who knows"),
    ("Neither of them", "Neither of them"),
    ("A) Paris\nB) Rome\nC) New York\nD) York", "A"),
    ("Berlin", "Rome"),
    ("The answer is (A).", "The answer is Rome."),
    ("", "A"),
    ("I cannot help with that.", "A"),
    ("A and B", "B"),
    ("(A) and (B)", "A"),
    ("The answer is A and C.", "The answer is C."),
    ("Neither A nor B", "B"),
    ("It is either A or B.", "B"),
    ("All except C", "C"),
]
SUM_SAME: Pairs = [
    ("7", "B"),
    ("3 + 4 = 7, so the answer is 7.", "(B)"),
    ("None of them", "D"),
    ("The answer is 8.", "C"),
    ("6", "The answer is A."),
    (r"\boxed{7}", r"\boxed{\text{B}}"),
]
SUM_DIFFERENT: Pairs = [
    ("7", "C"),
    ("6", "8"),
    ("The answer is 7.", "The answer is (A)."),
    ("7.5", "B"),
]
GIVEN_SAME: Pairs = [
    ("green", "B"),
    ("The answer is light green.", "C"),
    ("Red", "(a)"),
    ("I choose green.", "Option B"),
    ("It isn't red, so green.", "b"),
]
GIVEN_DIFFERENT: Pairs = [
    ("green", "light green"),
    ("red", "B"),
    ("blue", "blue"),
    ("red and green", "red and green"),
    ("The answer is red.", "The answer is C."),
]

LABEL_SAME: Pairs = [
    ("Spam", "spam."),
    ("This message is spam.", "**Spam**"),
    ("Label: NOT SPAM", "not spam"),
    ("I see words of spam, but the sender is known.\nNot spam", "Not Spam."),
    ("It wins prizes and asks for money. The answer is spam.", "Spam!"),
    ("First it looked like not spam.\nAnswer: spam", "spam"),
    ("It is unclear", "unclear"),
    ("The verdict: not spam, as far as I see.", "Not spam"),
    ("`spam`", '"spam"'),
    ("#### spam", "spam"),
    ("It is not unclear: it is spam", "spam"),
]
LABEL_DIFFERENT: Pairs = [
    ("spam", "not spam"),
    ("This is spam.", "This is not spam."),
    ("spam", "unclear"),
    ("Is it spam or not spam?", "Is it spam or not spam?"),
    ("ham", "ham"),
    ("spammer", "spam"),
    ("It isn't spam.", "spam"),
    ("", "spam"),
    ("I can't help with that.", "spam"),
    ("A message about nothing.", "A message about nothing."),
]
FREE_LABEL_SAME: Pairs = [
    ("Positive", "positive."),
    ("The answer is positive.", "**POSITIVE**"),
    ("Long it was and hard to tell, with many words for and against it.\nnegative", "Negative"),
    ("The cat", "cat"),
]
FREE_LABEL_DIFFERENT: Pairs = [
    ("Positive", "Negative"),
    ("very positive", "positive"),
    ("not sure", "not sure"),
]

TOTAL_SAME: Pairs = [
    ('{"total": 1, "why": "so"}', '{"why": "because", "total": 1.0}'),
    ('{"total": "Rome"}', '```json\n{"total": " rome"}\n```'),
    ('{"total": [1, {"a": 2}]}', '{"total": [1.0, {"a": 2}], "other": null}'),
    ('{"total": null}', '{ "total" : null }'),
]
TOTAL_DIFFERENT: Pairs = [
    ('{"total": 1}', '{"total": 2}'),
    ('{"total": 1}', '{"total": "1"}'),
    ('{"sum": 1}', '{"sum": 1}'),
    ("The total is 1.", "The total is 1."),
]

JSON_SAME: Pairs = [
    ('{"city": "Rome", "year": 1}', '{"year": 1.0, "city": "Rome"}'),
    ('{"a": [1, 2]}', '{\n  "a": [1, 2]\n}'),
    ('```json\n{"a": 1}\n```', '{"a": 1}'),
    ('{"a": 1e2}', '{"a": 100}'),
    ('{"a": {"b": 1, "c": 2}}', '{"a": {"c": 2, "b": 1}}'),
    ('{"a": "\\u0041"}', '{"a": "A"}'),
    ('{"a": 0.10}', '{"a": 0.1}'),
    ('{"a": -0.0}', '{"a": 0}'),
    ('{"a": null}', ' {"a":null} '),
    ("{}", "{ }"),
]
JSON_DIFFERENT: Pairs = [
    ('{"a": 1}', '{"a": 2}'),
    ('{"a": 1}', '{"a": "1"}'),
    ('{"a": 1}', '{"a": true}'),
    ('{"a": [1, 2]}', '{"a": [2, 1]}'),
    ('{"a": null}', '{"a": 0}'),
    ('{"a": 1}', '{"a": 1, "b": 2}'),
    ('{"a": "x"}', '{"b": "x"}'),
    ('{"a": ', '{"a": '),
    ("The answer is 42.", "The answer is 42."),
    ('{"a": 1}', "I'm sorry, I can't help with that."),
    ("[1]", "[1]"),
]

TOOLS_SAME: Pairs = [
    ([("add", '{"a": 1, "b": 2}')], [("add", '{"b": 2, "a": 1}')]),
    ([("add", '{"a": 1}')], [("add", '{"a": 1.0}')]),
    ([("now", "")], [("now", "{}")]),
    ([("find", '{"q": "rome"}')], [("find", '{ "q" : "rome" }')]),
    ([("add", '{"a": 1}'), ("now", "{}")], [("add", '{"a":1}'), ("now", "")]),
    ([("find", '{"at": {"x": 1, "y": 2}}')], [("find", '{"at": {"y": 2, "x": 1}}')]),
    ([("find", '{"n": 1e2}')], [("find", '{"n": 100}')]),
    ("I can't help with that.", "I'm sorry, but I cannot assist with that."),
]
TOOLS_DIFFERENT: Pairs = [
    ([("add", '{"a": 1}')], [("add", '{"a": 2}')]),
    ([("add", '{"a": 1}')], [("sub", '{"a": 1}')]),
    ([("add", '{"a": 1}')], [("add", '{"a": "1"}')]),
    ([("add", '{"a": 1}')], [("add", '{"a": 1}'), ("now", "{}")]),
    ([("add", '{"a": ')], [("add", '{"a": ')]),
    ([("find", '{"q": "rome"}')], [("find", '{"q": "Rome"}')]),
    ([("add", '{"a": [1, 2]}')], [("add", '{"a": [2, 1]}')]),
    ([("add", "{}")], "I can't help with that."),
    ([("add", "{}")], "add()"),
]

REGEX_SAME: Pairs = [
    ("verdict: yes", "First no.\nVerdict: YES"),
    ("verdict=yes, surely", "verdict: yes"),
    ("verdict: no and then verdict: yes", "verdict: yes"),
    ("verdict: 42", "verdict: 42.0"),
    ("verdict: **42**", "verdict: 42"),
    ("x " * 3_000 + "verdict: yes", "verdict: yes"),
    ("verdict: yes\n" + "and so on\n" * 1_000, "verdict: yes"),
    ("verdict: 1,000", "verdict: 1000"),
]
REGEX_DIFFERENT: Pairs = [
    ("verdict: yes", "verdict: no"),
    ("verdict: yes and then verdict: no", "verdict: yes"),
    ("yes", "yes"),
    ("The answer is 42.", "The answer is 42."),
    ("verdict: 42", "verdict: 41"),
    ("verdict: ?", "verdict: ?"),
    ("", "verdict: yes"),
]

CODE_SAME: Pairs = [
    ("```python\nprint(1)\n```", "Here it is:\n```\nprint(1)\n```\nIt prints 1."),
    ("```py\nprint(1)   \n```", "```python\nprint(1)\n```"),
    ("print(1)", "```python\nprint(1)\n```"),
    ("```\nif x:\n\ty()\n```", "```\nif x:\n    y()\n```"),
    ("```\n    a = 1\n    b = 2\n```", "```\na = 1\nb = 2\n```"),
    ("```\na = 1\n\n\nb = 2\n```", "```\na = 1\nb = 2\n```"),
    ("```\r\na = 1\r\nb = 2\r\n```", "```\na = 1\nb = 2\n```"),
    ("```\nold()\n```\nBetter:\n```\nnew()\n```", "```\nnew()\n```"),
    ("~~~sql\nSELECT 1\n~~~", "```sql\nSELECT 1\n```"),
    ("```\nunclosed()", "```\nunclosed()\n```"),
    ("````\n```\ninner\n```\n````", "~~~\n```\ninner\n```\n~~~"),
    ("```\na()\n```\n```\n```", "a()"),
]
CODE_DIFFERENT: Pairs = [
    ("```\nprint(1)\n```", "```\nprint(2)\n```"),
    ("```\nif x:\n    y()\n```", "```\nif x:\ny()\n```"),
    ("```\na = 1\nb = 2\n```", "```\nb = 2\na = 1\n```"),
    ("```\na = 1 b\n```", "```\na = 1\nb\n```"),
    ("```\nPrint(1)\n```", "```\nprint(1)\n```"),
    ("```\nold()\n```\n```\nnew()\n```", "```\nold()\n```"),
    ("", ""),
    ("I can't help with that.", "```\nprint(1)\n```"),
    ("```\n# one\na()\n```", "```\na()\n```"),
    ("<think>```\na()\n```", "```\na()\n```"),
]

TEXT_DIFFERENT: Pairs = [
    ("42", "42"),
    (r"\boxed{42}", r"\boxed{42}"),
    ("The answer is Paris.", "The answer is Paris."),
    ("I can't help with that.", "I can't help with that."),
]

AUTO_SAME: Pairs = [
    ("42", r"\boxed{42}"),
    ("**42**", "The answer is $42$."),
    ("It is 42.", "#### 42"),
    ("I think it is 1,234.", "1234"),
    ("6 x 7 = 42", "So the final answer is 42."),
    ("The answer is 42 in total.", "42"),
    ("Paris", "The answer is **Paris**, the capital of France."),
    ("Yes, 17 is prime.", "The answer is yes."),
    ("Yes.", "yes"),
    ("B", "The answer is (B)."),
    ("It landed on July 20, 1969.", "The answer is 1969-07-20."),
    ("x^2 + 1", r"The answer is \(x^2+1\)."),
    ("The probability is 3 / 4.", "0.75"),
    (r"\frac{3}{4}", "The answer is 0.75"),
    ("About 50%", "The answer is 50 percent."),
    ("User: what is it? 42", "42"),
    ("The answer is 42.\nUser: and now?", "42"),
    ("<think>41</think>42", "The answer is 42."),
    ("I\u2019m sorry, I can\u2019t assist with that.", "I cannot help with this request."),
    ("The answer is 42 km.", "Answer: 42 km"),
    ("The answer is Dr. Smith. He said so.", "Dr. Smith"),
    ("(1, 2)", "The answer is $(1,2)$."),
    ("GPT-4", "The answer is GPT-4."),
    ("Jane Austen", "The answer is Jane Austen."),
    ("y = 3x", "The answer is $3x$."),
    ("2, 3, 5", r"\boxed{2, 3, 5}"),
    ("Yes \u2014 because 17 has no divisors.", "The answer is: Yes, it is."),
    ("False. 3 > 2.", "false"),
    ("In July 1969.", "July 1969"),
    ('{"label": "spam", "score": 0.9}', '```json\n{"score": 0.90, "label": "spam"}\n```'),
    ("I'm afraid I can't do that.", "I must decline."),
    ("No, I can't help you with that.", "Apologies, but I can't assist."),
    ("I cannot give an exact number, but it is about 42.", "42"),
    ("3 and 4", "The answers are 3 and 4."),
]
AUTO_DIFFERENT: Pairs = [
    ("42", "41"),
    ("The answer is 42.", "The answer is 42 dollars."),
    ("Paris", "Rome"),
    ("yes", "no"),
    ("B", "C"),
    ("50%", "0.5"),
    ("1/3", "0.333333"),
    ("July 20, 1969", "1969"),
    ("GPT-4", "4"),
    ("(1, 2)", "(2, 1)"),
    ("I don't know.", "I don't know."),
    ("N/A", "N/A"),
    ("word " * 60 + "42", "word " * 60 + "42"),
    ("<think>The answer is 42.", "<think>The answer is 42."),
    ("", ""),
    ("A. Paris\nB. Rome\nC. Athens", "A"),
    ("Paris, France", "Paris"),
    ("I can't help with that.", "42"),
    ("The answer is 42.", "The answer is -42."),
    ("x+1", "x-1"),
    ("J. K. Rowling", "J. R. R. Tolkien"),
    ("forty-two", "forty-three"),
    ("B, A, C", "C, A, B"),
    ("Yes, 17 is prime.", "17"),
    ("True, since 3 > 2.", "2"),
    ("July 1969", "June 1969"),
    ("On March 3.", "On April 3."),
    ('{"label": "spam", "score": 0.9}', '{"label": "ham", "score": 0.9}'),
    ("positive (0.95)", "negative (0.95)"),
    ("x = 3, y = 4", "x = 5, y = 4"),
    ("Apples: 3, pears: 4", "Apples: 5, pears: 4"),
    ("1. Paris\n2. Rome", "1. Oslo\n2. Bern"),
    ("between 3 and 5", "5"),
    ("9" * 2_000, "9" * 1_999 + "8"),
]
LISTED_SAME: Pairs = [
    ("Rome", "B"),
    ("The answer is Rome.", "The answer is (B)."),
    ("**New York**", "C) New York"),
    (r"\boxed{\text{York}}", "D"),
]
LISTED_DIFFERENT: Pairs = [
    ("Rome", "C"),
    ("Rome", "Paris"),
    ("Berlin", "A"),
    ("Romeo", "B"),
]

TABLE: list[tuple[AnswerSpec, JSON, Pairs, Pairs]] = [
    (AnswerSpec("math"), {}, MATH_SAME, MATH_DIFFERENT),
    (AnswerSpec("number"), {}, NUMBER_SAME, NUMBER_DIFFERENT),
    (AnswerSpec("number", tolerance=0.01), {}, NEAR_SAME, NEAR_DIFFERENT),
    (AnswerSpec("choice"), CITIES, CHOICE_SAME, CHOICE_DIFFERENT),
    (AnswerSpec("choice"), SUMS, SUM_SAME, SUM_DIFFERENT),
    (AnswerSpec("choice", options=("red", "green", "light green")), {}, GIVEN_SAME, GIVEN_DIFFERENT),
    (AnswerSpec("label", options=("Spam", "Not spam", "Unclear")), {}, LABEL_SAME, LABEL_DIFFERENT),
    (AnswerSpec("label"), {}, FREE_LABEL_SAME, FREE_LABEL_DIFFERENT),
    (AnswerSpec("json"), OBJECT, JSON_SAME, JSON_DIFFERENT),
    (AnswerSpec("json_path", path="$.total"), {}, TOTAL_SAME, TOTAL_DIFFERENT),
    (AnswerSpec("tool_calls"), {}, TOOLS_SAME, TOOLS_DIFFERENT),
    (AnswerSpec("regex", pattern=r"(?i)verdict[:=]\s*(\S+?)[,.]?(?:\s|$)"), {}, REGEX_SAME, REGEX_DIFFERENT),
    (AnswerSpec("code"), {}, CODE_SAME, CODE_DIFFERENT),
    (AnswerSpec("text"), {}, [], TEXT_DIFFERENT),
    (AnswerSpec(), {}, AUTO_SAME, AUTO_DIFFERENT),
    (AnswerSpec(), CITIES, LISTED_SAME, LISTED_DIFFERENT),
]
ROWS = [
    pytest.param(spec, request, first, second, same, id=f"{spec.kind} {'=' if same else '!'} {str(first)[:30]!r}")
    for spec, request, equal, unequal in TABLE
    for same, pairs in ((True, equal), (False, unequal))
    for first, second in pairs
]


ABSTAINING: dict[AnswerKind, list[Reply]] = {
    "math": [
        "It is x = 3 and y = 4.",
        "It is x = 5 and y = 4.",
        "I don't know.",
        "",
        "<think>The answer is 42.",
    ],
    "number": [
        "1,00",
        "no number at all",
        "It is GPT-4.",
        "At 12:30.",
        "In the 1990s.",
        "2π",
        "Between 3-5",
        "He came 4th.",
        "The answer is between 3 and 5.",
        "It takes 3 to 5 days.",
        "twenty-first",
        "two thirds",
        "3 and a half",
    ],
    "choice": [
        "Rome or Paris, who knows",
        "Neither of them",
        "Berlin",
        "",
        "Neither A nor B",
        "It is either A or B.",
        "All except C",
        "7.5",
        "blue",
        "red and green",
    ],
    "label": [
        "Is it spam or not spam?",
        "ham",
        "spammer",
        "It isn't spam.",
        "",
        "A message about nothing.",
        "not sure",
    ],
    "json": [
        '{"a": ',
        "The answer is 42.",
        "[1]",
    ],
    "json_path": [
        '{"sum": 1}',
        "The total is 1.",
    ],
    "tool_calls": [
        [("add", '{"a": ')],
        "add()",
    ],
    "regex": [
        "yes",
        "The answer is 42.",
        "verdict: ?",
        "",
    ],
    "code": [
        "",
        "<think>```\na()\n```",
    ],
    "auto": [
        "I don't know.",
        "N/A",
        "word " * 60 + "42",
        "<think>The answer is 42.",
        "",
        "A. Paris\nB. Rome\nC. Athens",
        "9" * 2_000,
        "9" * 1_999 + "8",
    ],
}
"""The replies of the table that have no answer, by kind; of kind text none has one."""


def choice(reply: Reply, finish: str | None = "stop") -> Choice:
    if isinstance(reply, str):
        return Choice(0, {"role": "assistant", "content": reply}, finish)
    calls = [
        {"id": f"call_{place}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for place, (name, arguments) in enumerate(reply)
    ]
    return Choice(0, {"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls")


def read(reply: Reply, spec: AnswerSpec, request: JSON) -> Answer | None:
    return Reader(spec, request).read(choice(reply))


@pytest.mark.parametrize(("spec", "request_", "first", "second", "same"), ROWS)
def test_two_replies_say_the_same_or_they_do_not(
    spec: AnswerSpec, request_: JSON, first: Reply, second: Reply, same: bool
) -> None:
    one, other = read(first, spec, request_), read(second, spec, request_)
    silent = [reply for reply, answer in ((first, one), (second, other)) if answer is None]
    assert spec.kind == "text" or [reply for reply in silent if reply not in ABSTAINING[spec.kind]] == []
    if one is None or other is None:
        assert not same, (one, other)
        return
    assert (alike(one, other, spec) is True) is same, (one, other)
    assert alike(one, other, spec) == alike(other, one, spec)


def test_there_are_enough_pairs_of_both_sorts_over_all_kinds() -> None:
    equal, unequal = sum(len(same) for _, _, same, _ in TABLE), sum(len(other) for _, _, _, other in TABLE)
    assert equal + unequal >= 320
    assert 0.4 < equal / (equal + unequal) < 0.6
    assert {row[0].kind for row in TABLE} == set(get_args(AnswerKind))


# votes ---------------------------------------------------------------------------------------------------------------

SPELLINGS = [r"\boxed{42}", "42", "**42**", "$42$", "42.0"]


def labels(replies: list[str], spec: AnswerSpec, **request: Any) -> list[object]:
    found = [read(reply, spec, request) for reply in replies]
    return [None if answer is None else answer.label for answer in found]


@pytest.mark.parametrize("kind", ["auto", "math"])
def test_five_spellings_of_42_beat_three_of_41(kind: Any) -> None:
    said = labels(["41", *SPELLINGS[:2], "41", *SPELLINGS[2:], "The answer is 41."], AnswerSpec(kind))
    votes = poll([Ballot(label) for label in said], Rule())
    assert votes.counts == ((("number", "42"), 5), (("number", "41"), 3))


def test_no_answer_never_wins_even_when_it_is_the_most_frequent() -> None:
    replies = ["No answer found", "I don't know.", "N/A", "", "no answer", "The answer is ___", "42", "42", "41"]
    votes = poll([Ballot(label) for label in labels(replies, AnswerSpec())], Rule())
    assert votes.leader == ("number", "42")
    assert votes.abstained == 6


def test_a_text_with_a_speaker_in_it_survives_whole() -> None:
    answer = read("User: Anna", AnswerSpec("label"), {})
    assert answer is not None
    assert (answer.label, answer.text) == (("text", "user: anna"), "User: Anna")


def test_what_was_only_thought_does_not_vote_and_what_was_cut_is_known_as_cut() -> None:
    spec = AnswerSpec("math")
    assert labels(["<think>It is 41. The answer is 41.", "<think>41</think>The answer is 42."], spec) == [
        None,
        ("number", "42"),
    ]
    thought = Choice(0, {"content": "", "reasoning_content": "The answer is 41."}, "stop")
    assert Reader(spec, {}).read(thought) is None
    assert truncated(choice("The answer is 4", "length"))
