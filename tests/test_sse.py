"""Server-sent events: bytes in, data out, however the network cut the bytes."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.upstream.sse import DONE, EventParser

LINE = st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"").replace(b"\r", b""))
NOISE = st.sampled_from([b": ping\n", b"event: message\n", b"id: 7\n", b"retry: 10\n", b"\n", b": ping\r\n\r\n"])


def parse(*chunks: bytes) -> list[bytes]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)] + parser.end()


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@given(st.lists(LINE, max_size=6), NOISE, st.sampled_from([b"\n", b"\r\n"]), st.lists(st.integers(0, 999), max_size=8))
def test_any_split_of_the_bytes_gives_the_events_that_were_written(
    data: list[bytes], noise: bytes, newline: bytes, places: list[int]
) -> None:
    stream = b"".join(noise + b"data: " + item + newline * 2 for item in data)
    assert parse(*cut(stream, places)) == data


@given(st.binary(max_size=60), st.lists(st.integers(0, 999), max_size=8))
@example(b"data: 1\r\n\r\ndata: 2\n\n", [8])
def test_any_split_of_any_bytes_gives_the_same_events(stream: bytes, places: list[int]) -> None:
    assert parse(*cut(stream, places)) == parse(stream)


def test_an_event_comes_out_when_its_blank_line_is_in() -> None:
    parser = EventParser()
    assert parser.feed(b"data: one\n") == []
    assert parser.feed(b"\ndata: two") == [b"one"]
    assert parser.feed(b"\n\n") == [b"two"]


def test_the_space_after_the_colon_is_optional_and_only_one_is_taken() -> None:
    assert parse(b"data:a\n\ndata: b\n\ndata:  c\n\n") == [b"a", b"b", b" c"]


def test_the_lines_of_one_event_are_joined() -> None:
    assert parse(b"data: {\ndata: }\n\n") == [b"{\n}"]


def test_a_last_event_without_its_blank_line_is_given_at_the_end() -> None:
    assert parse(b"data: 1\n\ndata: [DONE]") == [b"1", DONE]


def test_comments_alone_are_no_event() -> None:
    assert parse(b": ping\n\n: ping\n\n") == []
