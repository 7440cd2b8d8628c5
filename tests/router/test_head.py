"""A head that is known by its bytes says what reading it anew would say."""

from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.router.head import HeadReader, RequestHead

NAMES = ["Content-Type", "Accept", "X-Herd-Priority", "Authorization", "content-encoding", "Host"]
VALUES = ["application/json", "batch", "zstd", "a b", "127.0.0.1:11435", "", "Content-Length: 7"]
LENGTH_LINES = [
    "Content-Length: {}",
    "content-length:{}",
    "CONTENT-LENGTH: {}",
    "Content-Length:  {}",
    "Content-Length: {} ",
    "Content-Length: +{}",
    "Content-Length: {0}\r\nContent-Length: {0}",
    "Content-Length: {0}\r\nContent-Length: 1{0}",
    "Content-Length: {0}, {0}",
    "X-Content-Length: {}",
    "Content-Length: {}\r\n 5",
    "Transfer-Encoding: chunked\r\nContent-Length: {}",
]


@st.composite
def heads(draw: st.DrawFn) -> str:
    """A head with a place for its length."""
    pairs = draw(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=5))
    lines = [f"{name}: {value}" for name, value in pairs]
    lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(LENGTH_LINES)))
    version = draw(st.sampled_from(["1.1", "1.1", "1.0"]))
    lines.insert(0, "Host: herd")
    return "\r\n".join([f"POST /api/chat HTTP/{version}", *lines, "", ""])


def said(head: RequestHead | None, reader: HeadReader) -> object:
    """All that the request path can see of a head."""
    if head is None:
        return None
    others = [header for header in head.headers if header[0] != b"content-length"]
    return (
        head.path,
        others,
        head.length,
        head.encoding,
        head.has_wishes,
        head.for_engines(),
        reader.keeps_alive,
    )


def read(reader: HeadReader, data: bytes) -> RequestHead | None:
    """As the data plane does it."""
    end = reader.known_end(data + b"the body")
    if end:
        assert end == len(data)
        return reader.again()
    return reader.read(data)


@given(
    st.lists(
        st.tuples(heads(), st.sampled_from(["0", "7", "12", "007", "123456789", "x", "", "1 "]))
    ),
    st.lists(st.sampled_from(["3", "44", "00", "5x", "", "9" * 30, "-1", "1\r\nX: y"]), max_size=4),
)
def test_a_remembered_head_reads_as_a_new_one(
    first: list[tuple[str, str]], lengths: list[str]
) -> None:
    kept = HeadReader("10.0.0.7")
    for head, length in first:
        for each in [length, *lengths]:
            data = head.format(each).encode()
            anew = HeadReader("10.0.0.7")
            expected = said(anew.read(data), anew)
            assert said(read(kept, data), kept) == expected


def test_the_same_head_is_not_read_twice() -> None:
    reader = HeadReader("10.0.0.7")
    data = b"POST /api/chat HTTP/1.1\r\nHost: herd\r\nContent-Length: %d\r\nAccept: */*\r\n\r\n"
    first = read(reader, data % 5)
    second = read(reader, data % 12345)
    assert first is second
    assert second is not None
    assert second.length == 12345


def test_another_head_is_read_anew() -> None:
    reader = HeadReader("10.0.0.7")
    head = (
        b"POST /api/chat HTTP/1.1\r\nHost: herd\r\nContent-Length: 5\r\nX-Herd-Priority: %b\r\n\r\n"
    )
    first = read(reader, head % b"batch")
    second = read(reader, head % b"other")
    assert first is not None
    assert second is not None
    assert second is not first
    assert (b"x-herd-priority", b"other") in second.headers


def test_an_offer_of_another_protocol_is_left_alone() -> None:
    reader = HeadReader("10.0.0.7")
    head = reader.read(
        b"POST /api/chat HTTP/1.1\r\nHost: herd\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 5\r\nAccept: */*\r\n\r\n"
    )
    assert head is not None
    assert head.length == 5
    assert reader.keeps_alive
    assert head.for_engines() == b"accept: */*\r\n"
