"""The answers room: what a reply says, as a label that can be counted, and which sample speaks for its label.

Pure functions over values. A label is a tuple whose first item names its space (`number`, `percent`, `quantity`,
`text`, `date`, `tuple`, `json`, `tool_calls`, `code`, `refusal`, `said`, `long`) and whose other items are canonical;
equal answers have equal labels. What labels do not tell, `alike` and algebra do, in groups.
"""

from proxy.answers.answer import REFUSAL, SAID, Answer, kin
from proxy.answers.canonical import canonical
from proxy.answers.compose import Composed
from proxy.answers.groups import Algebra, Groups
from proxy.answers.messages import mean_logprob, truncated, visible_text
from proxy.answers.question import prompt_text, question
from proxy.answers.read import Reader, read
from proxy.answers.votable import declared, votable
from proxy.answers.winner import Candidate, winner

__all__ = [
    "REFUSAL",
    "SAID",
    "Algebra",
    "Answer",
    "Candidate",
    "Composed",
    "Groups",
    "Reader",
    "canonical",
    "declared",
    "kin",
    "mean_logprob",
    "prompt_text",
    "question",
    "read",
    "truncated",
    "visible_text",
    "votable",
    "winner",
]
