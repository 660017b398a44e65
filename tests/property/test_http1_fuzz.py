"""Whatever bytes a caller or an upstream sends: no crash, no hang, one meaning.

`make fuzz` runs 100,000 inputs (MESHSIM_FUZZ_INPUTS); the fast tests a few hundred.
"""

import asyncio
import itertools
import os

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from emulator.http.bodies import CHUNKED
from emulator.http.connection import UpstreamConnection
from emulator.http.heads import LAST_CHUNK, encode_chunk, encode_request
from emulator.proxy.downstream import Downstream

EXAMPLES = int(os.environ.get("MESHSIM_FUZZ_INPUTS", "300"))

fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,  # a hang is found by the time limit of the test
    derandomize=EXAMPLES <= 1000,
    suppress_health_check=list(HealthCheck),
)

FRAGMENTS = [
    b"GET / HTTP/1.1\r\n", b"POST /a HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"PRI * HTTP/2.0\r\n",
    b"HEAD http://b/c HTTP/1.1\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"OPTIONS * HTTP/1.1\r\n",
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 204 X\r\n",
    b"HTTP/1.0 503\r\n",
    b"Host: a\r\n", b"Host: b:80\r\n", b"host:\r\n", b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 99999\r\n", b"content-length:\t5 \r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding:\x0bchunked\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive, x-a\r\n", b"Connection: upgrade\r\n",
    b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"X-A: b\r\n", b"X-A: b\n", b" folded\r\n",
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"abc", b"0\r\n\r\n", b"3\r\nabc\r\n", b"3;x=y\r\nabc\r\n",
    b"5\r\nab\r\nc\r\n", b"ffffffff\r\n", b"0\r\nx: y\r\n\r\n", b"-1\r\n", b"\x00", b"\xff", b":",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"X: " + b"y" * 61_000 + b"\r\n",
]  # fmt: skip
WELL_FORMED = FRAGMENTS[-4:-1]

inputs = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=5), max_size=14).map(b"".join),
    st.lists(st.sampled_from(WELL_FORMED), min_size=1, max_size=4).map(b"".join),
    st.tuples(
        st.lists(st.sampled_from(WELL_FORMED), min_size=1, max_size=3).map(b"".join),
        st.integers(0, 200),
        st.binary(max_size=3),
        st.integers(0, 3),
    ).map(lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + parts[3] :]),
)
cuts = st.lists(st.integers(0, 400), max_size=6)


class Transport:
    def __init__(self):
        self.written = []
        self.open = True

    def write(self, data):
        assert self.open
        self.written.append(data)

    def close(self):
        self.open = False

    abort = close

    def can_write_eof(self):
        return True

    def write_eof(self):
        pass

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


class Served:
    """A request that was let in; it is answered as soon as it is complete."""

    def __init__(self, head, connection, requests):
        self.head = head
        self.connection = connection
        self.body = b""
        self.lost = False
        requests.append(self)

    def on_request_body(self, piece):
        assert piece
        self.body += piece

    def on_request_end(self):
        self.connection.respond(200, ())

    def on_downstream_lost(self):
        self.lost = True

    def on_downstream_writable(self, writable):
        pass

    def meaning(self):
        return self.head, self.body


def pieces(data, positions):
    edges = sorted({0, len(data), *(p % (len(data) + 1) for p in positions)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


async def receive(parts):
    """Return what a proxy let in, how often it answered what, and whether it hung up."""
    requests = []
    downstream = Downstream(lambda head, connection: Served(head, connection, requests))
    connection = downstream.protocol()
    transport = Transport()
    connection.connection_made(transport)
    for part in parts:
        connection.data_received(part)
    complete = [served.meaning() for served in requests if not served.lost]
    refused = {k: v for k, v in downstream.counts.items() if k.startswith("refused_")}
    connection.connection_lost(None)
    assert not downstream.connections
    return complete, refused, b"".join(transport.written)


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@fuzz
@given(inputs, cuts)
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 500, [1, 27, 300])
@example(b"\r\n" * 5000, [3])
@example(
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 2000, []
)
def test_a_request_means_the_same_however_it_is_cut(runner, data, positions):
    whole = runner.run(receive([data]))
    assert runner.run(receive(pieces(data, positions)))[:2] == whole[:2]
    # One answer for each request and each refusal, and no more.
    ended = whole[2].count(b"HTTP/1.1 200 OK\r\n"), whole[2].count(b"connection: close\r\n")
    assert ended[0] <= len(whole[0])
    assert sum(whole[1].values()) <= ended[1]


@fuzz
@given(inputs)
def test_what_is_sent_on_means_the_same(runner, data):
    """The next proxy reads what one lets in and sends on as just the same requests."""
    requests = [
        (head._replace(keep_alive=True, http10=False, expects_continue=False), body)
        for head, body in runner.run(receive([data]))[0]
    ]
    sent = []
    for head, body in requests:
        chunked = head.length == CHUNKED
        sent += [encode_request(head, head.headers), b"\r\n"]
        sent += [encode_chunk(body) if chunked and body else body, LAST_CHUNK if chunked else b""]
    assert runner.run(receive([b"".join(sent)]))[:2] == (requests, {})


class Client:
    def __init__(self):
        self.said = []

    def on_response_head(self, head):
        self.said.append(head)

    def on_response_body(self, piece):
        assert piece
        if isinstance(self.said[-1], bytes):
            self.said[-1] += piece
        else:
            self.said.append(piece)

    def on_response_end(self, reusable):
        self.said.append("end")

    def on_response_pause(self):
        pass

    def on_reset(self):
        self.said.append("reset")

    def on_upstream_writable(self, writable):
        pass


def respond(parts, method):
    """Return what the client of a connection is told, at the latest when it is closed."""
    idle_closed = []
    connection = UpstreamConnection(0, idle_closed.append)
    connection.connection_made(Transport())
    client = Client()
    connection.use(client, method)
    for part in parts:
        if not connection.closed:
            connection.data_received(part)
    if not connection.closed:
        connection.eof_received()
        connection.connection_lost(None)
    return client.said


@fuzz
@given(inputs, cuts, st.sampled_from([b"GET", b"HEAD"]))
@example(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n", [], b"GET")
@example(b"HTTP/1.1 200 OK\r\n\r\nabc", [20], b"GET")
def test_a_response_means_the_same_however_it_is_cut(data, positions, method):
    said = respond([data], method)
    # The client hears the end of its request exactly once.
    assert [word for word in said if word in ("end", "reset")] == said[-1:]
    assert respond(pieces(data, positions), method) == said
