import pytest

from emulator.http.bodies import CHUNKED, UNTIL_CLOSE, ChunkedBody, HttpError, LengthBody
from emulator.http.heads import (
    MAX_HEAD_BYTES,
    MAX_HEADERS_BYTES,
    encode_chunk,
    encode_own_response,
    parse_request_head,
    parse_response_head,
    split_head,
)


def head(*lines, first="GET /a?b=c HTTP/1.1"):
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")


def test_a_request_is_read():
    request = parse_request_head(
        head("Host: Reviews:9080", "X-A:  b \t", "x-a: c", "Connection: keep-alive")
    )
    assert (request.method, request.target, request.host) == (b"GET", b"/a?b=c", "Reviews")
    assert (request.http10, request.keep_alive, request.length) == (False, True, 0)
    assert request.headers == [(b"x-a", b"b"), (b"x-a", b"c")]


def test_a_body_is_framed_by_length_or_chunks():
    post = "POST / HTTP/1.1"
    assert parse_request_head(head("Host: a", "Content-Length: 12", first=post)).length == 12
    chunked = head("Host: a", "Transfer-Encoding: Chunked", first=post)
    assert parse_request_head(chunked).length == CHUNKED


def test_hop_by_hop_headers_stay_here():
    request = parse_request_head(
        head("Host: a", "Connection: close, X-Secret", "x-secret: 1", "Keep-Alive: 5", "TE: gzip",
             "Trailer: x", "Upgrade: h2c", "Proxy-Connection: x", "x-kept: 1")
    )  # fmt: skip
    assert request.headers == [(b"x-kept", b"1")]
    assert not request.keep_alive


def test_http10_closes_unless_it_says_otherwise():
    first = "GET / HTTP/1.0"
    request = parse_request_head(head("Host: a", first=first))
    assert (request.http10, request.keep_alive) == (True, False)
    assert parse_request_head(head("Host: a", "Connection: Keep-Alive", first=first)).keep_alive


def test_an_absolute_target_counts_more_than_host():
    request = parse_request_head(head("Host: a", first="GET http://B:80/x?y HTTP/1.1"))
    assert (request.host, request.target) == ("B", b"/x?y")
    assert parse_request_head(head("Host: a", first="OPTIONS * HTTP/1.1")).target == b"*"


def test_expect_is_understood():
    request = head("Host: a", "Content-Length: 1", "Expect: 100-Continue", first="PUT / HTTP/1.1")
    assert parse_request_head(request).expects_continue


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Content-Length: 3", "Transfer-Encoding: chunked"], 400),
        (["Transfer-Encoding: chunked", "Content-Length: 3"], 400),
        (["Content-Length: 3", "Content-Length: 3"], 400),
        (["Content-Length: +3"], 400),
        (["Content-Length: 3, 3"], 400),
        (["Content-Length: 1_0"], 400),
        (["Content-Length: -1"], 400),
        (["Content-Length:"], 400),
        (["Content-Length: 9999999999999999999"], 400),
        (["Transfer-Encoding: gzip"], 400),
        (["Transfer-Encoding: gzip, chunked"], 400),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 400),
        (["Transfer-Encoding : chunked"], 400),
        (["Transfer-Encoding: \x0bchunked"], 400),
        (["X-A: b", " folded"], 400),
        (["X-A: b", "\tfolded"], 400),
        (["X-A: b\x00c"], 400),
        (["X-A: b\rc"], 400),
        (["X A: b"], 400),
        ([": b"], 400),
        (["Host: b"], 400),
        (["Connection: Upgrade", "Upgrade: websocket"], 403),
        (["Connection: upgrade"], 403),
        (["Expect: everything"], 417),
        (["X-A: " + "b" * MAX_HEADERS_BYTES], 431),
        ([f"X-{n}: b" for n in range(100)], 431),
    ],
)
def test_what_could_be_understood_in_two_ways_is_refused(lines, status):
    with pytest.raises(HttpError) as refused:
        parse_request_head(head("Host: a", *lines, first="POST / HTTP/1.1"))
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
        (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\n", 400),
        (b"NONSENSE / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 403),
        (b"GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b" \r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_refused(data, status):
    with pytest.raises(HttpError) as refused:
        parse_request_head(data)
    assert refused.value.status == status


def test_a_head_ends_at_its_empty_line():
    data = head("Host: a") + b"rest"
    assert split_head(data, 0) == len(data) - 4
    assert split_head(data[:-6], 0) == -1
    assert split_head(b"xx" + data, 2) == len(data) - 2


def test_bytes_of_a_head_are_counted_before_it_is_complete():
    longest = b"GET /" + b"a" * (MAX_HEAD_BYTES - 5)
    assert split_head(longest, 0) == -1
    with pytest.raises(HttpError) as refused:
        split_head(longest + b"a", 0)
    assert refused.value.status == 431


def test_a_bare_line_feed_is_refused_at_once():
    with pytest.raises(HttpError) as refused:
        split_head(b"GET / HTTP/1.1\nHost: a\n\n", 0)
    assert refused.value.status == 400


# --- Responses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "lines", "method", "length", "keep_alive"),
    [
        ("HTTP/1.1 200 OK", ["Content-Length: 3"], b"GET", 3, True),
        ("HTTP/1.1 200 OK", ["Transfer-Encoding: chunked"], b"GET", CHUNKED, True),
        ("HTTP/1.1 200 OK", [], b"GET", UNTIL_CLOSE, False),
        ("HTTP/1.1 200 OK", ["Content-Length: 3", "Connection: close"], b"GET", 3, False),
        ("HTTP/1.0 200 OK", ["Content-Length: 3"], b"GET", 3, False),
        ("HTTP/1.1 200 OK", ["Content-Length: 3"], b"HEAD", 0, True),
        ("HTTP/1.1 204 No Content", [], b"GET", 0, True),
        ("HTTP/1.1 304 Not Modified", ["Content-Length: 3"], b"GET", 0, True),
        ("HTTP/1.1 100 Continue", [], b"GET", 0, True),
    ],
)
def test_a_response_is_framed(first, lines, method, length, keep_alive):
    response = parse_response_head(head(*lines, first=first), method)
    assert (response.length, response.keep_alive) == (length, keep_alive)


@pytest.mark.parametrize(
    "data",
    [
        head("Content-Length: 3", "Transfer-Encoding: chunked", first="HTTP/1.1 200 OK"),
        head("Content-Length: 3", "Content-Length: 4", first="HTTP/1.1 200 OK"),
        head("Connection: upgrade", "Upgrade: x", first="HTTP/1.1 101 Switching"),
        head(first="HTTP/1.1 99 X"),
        head(first="HTTP/1.1 600 X"),
        head(first="HTTP/2 200"),
        head("X: " + "b" * 70_000, first="HTTP/1.1 200 OK"),
        b"nonsense\r\n\r\n",
    ],
)
def test_a_bad_response_is_502(data):
    with pytest.raises(HttpError) as refused:
        parse_response_head(data, b"GET")
    assert refused.value.status == 502


# --- Bodies ----------------------------------------------------------------------------------


def test_a_length_body_takes_its_bytes_and_no_more():
    body = LengthBody(5)
    assert body.take(b"xxab", 2) == (b"ab", 4)
    assert not body.done
    assert body.take(b"cdeGET", 0) == (b"cde", 3)
    assert body.done


def feed(body, data, size):
    """Feed `data` in pieces of `size`; return content and what was left over."""
    content, rest = b"", b""
    for start in range(0, len(data), size):
        rest += data[start : start + size]
        piece, at = body.take(rest, 0)
        content += piece
        rest = rest[at:]
    return content, rest


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_chunks_are_taken_however_they_come(size):
    data = b'3\r\nabc\r\n00A;ext="1"\r\n0123456789\r\n0\r\nx-trailer: 1\r\n\r\nGET /'
    body = ChunkedBody()
    assert feed(body, data, size) == (b"abc0123456789", b"GET /")
    assert body.done


def test_a_chunk_may_hold_what_looks_like_one():
    body = ChunkedBody()
    assert feed(body, encode_chunk(b"0\r\n\r\n") + b"0\r\n\r\n", 1) == (b"0\r\n\r\n", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"xyz\r\n",
        b"-3\r\nabc\r\n",
        b"+3\r\nabc\r\n",
        b"0x3\r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"3\nabc\r\n",
        b"\r\n",
        b"123456789\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3;\x00\r\nabc\r\n",
        b"3;a\rb\r\nabc\r\n",
        b"3;" + b"a" * 5000,
        b"3;" + b"a" * 5000 + b"\r\n",
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\n folded: 1\r\n\r\n",
        b"0\r\na: b\n\r\n\r\n",
        b"0\r\n" + b"a: b\r\n" * 2000,
        b"0\r\n" + b"a" * 9000,
    ],
)
@pytest.mark.parametrize("size", [1, 100_000])
def test_bad_chunks_are_refused(data, size):
    with pytest.raises(HttpError) as refused:
        feed(ChunkedBody(), data, size)
    assert refused.value.status == 400


def test_an_own_response_is_whole():
    assert encode_own_response(503, ((b"x-meshsim-flag", b"UH"),), close=True) == (
        b"HTTP/1.1 503 Service Unavailable\r\nx-meshsim-flag: UH\r\n"
        b"content-length: 0\r\nconnection: close\r\n\r\n"
    )
