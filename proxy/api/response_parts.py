"""What a chat tells beside its words, as responses have it: usage, log-probabilities, citations."""

from proxy.types import JSON
from proxy.upstream.usage import told

_CITED = "url_citation"


def usage(given: JSON) -> JSON:
    """A chat's usage in the words of responses."""
    counted, details = told(given), given.get("prompt_tokens_details")
    written = details.get("cache_write_tokens") if isinstance(details, dict) else None
    return {
        "input_tokens": counted.prompt,
        "input_tokens_details": {
            "cached_tokens": counted.cached,
            "cache_write_tokens": written if isinstance(written, int) else 0,
        },
        "output_tokens": counted.completion,
        "output_tokens_details": {"reasoning_tokens": counted.reasoning},
        "total_tokens": counted.prompt + counted.completion,
    }


def logprobs(given: object) -> list[JSON]:
    """A chat's log-probabilities as responses have them: every entry with its bytes."""
    return _entries(given.get("content")) if isinstance(given, dict) else []


def citations(given: object) -> list[JSON]:
    """The web pages among a chat's annotations; of others responses say other things than chats."""
    noted = [note.get(_CITED, note) for note in given if _cites(note)] if isinstance(given, list) else []
    return [_citation(note) for note in noted if isinstance(note, dict) and isinstance(note.get("url"), str)]


def _cites(note: object) -> bool:
    return isinstance(note, dict) and note.get("type") == _CITED


def _citation(note: JSON) -> JSON:
    places = {name: note[name] if isinstance(note.get(name), int) else 0 for name in ("start_index", "end_index")}
    title = note.get("title")
    return {"type": _CITED, **places, "title": title if isinstance(title, str) else "", "url": note["url"]}


def _entries(given: object) -> list[JSON]:
    known = [entry for entry in given if _known(entry)] if isinstance(given, list) else []
    return [{**_entry(entry), "top_logprobs": _tops(entry.get("top_logprobs"))} for entry in known]


def _tops(given: object) -> list[JSON]:
    return [_entry(entry) for entry in given if _known(entry)] if isinstance(given, list) else []


def _known(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("token"), str)
        and isinstance(entry.get("logprob"), int | float)
    )


def _entry(entry: JSON) -> JSON:
    spelt = entry.get("bytes")
    own = spelt if isinstance(spelt, list) and all(isinstance(each, int) for each in spelt) else None
    return {
        "token": entry["token"],
        "logprob": entry["logprob"],
        "bytes": list(entry["token"].encode()) if own is None else own,
    }
