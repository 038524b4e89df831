"""What one reply says: an answer with its label."""

from collections.abc import Hashable

from proxy.answers.canonical import Label
from proxy.values import value

REFUSAL: Label = ("refusal",)
"""The one ballot of all refusals: seven of them must not lose to one that complies."""

SAID: Label = ("said",)
"""The one ballot of all texts without an answer of their own, where a tool might have been called instead."""

LONGEST_SHOWN = 200


@value(frozen=True, slots=True)
class Answer:
    """What one choice says. `label` is equal for equal answers; `text` is for people, at most 200 characters.

    `marked`: the reply pointed its answer out (boxed, `####`, "answer is", JSON or tools as asked, a choice alone).
    `formula` is the answer as the reply writes it where unequal labels may still be equal by algebra; else None.
    `bare`: the reply's content is the answer as it stands, so that a client that parses it can; False for JSON in a
    fence or after thinking.
    """

    label: Hashable
    text: str
    marked: bool
    formula: str | None = None
    bare: bool = True


def kin(label: Hashable) -> tuple[Hashable, ...]:
    """The classes that a label is of, coarsest first: a refusal or an answer, something said or a call, of which tools.

    So it is voted on whether to refuse, then whether to call, then what, and last with which arguments.
    """
    if label == REFUSAL:
        return ("refusal",)
    if isinstance(label, tuple) and label[0] == "tool_calls":
        return "answer", "call", tuple(name for name, _ in label[1])
    return "answer", "said"


def shown(text: str) -> str:
    """`text` as people see it: one line, at most 200 characters, encodable as UTF-8."""
    clean = " ".join(text[: 5 * LONGEST_SHOWN].replace("\x00", "").encode(errors="replace").decode().split())
    return clean if len(clean) <= LONGEST_SHOWN else clean[: LONGEST_SHOWN - 1] + "…"
