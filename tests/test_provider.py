"""The demo provider, read by the real SDK over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from budget import errors
from budget.demo.provider import Provider, Reply, Request

anthropic = pytest.importorskip("anthropic")
httpx2 = pytest.importorskip("httpx2")

MODEL = "claude-sonnet-4-6"
CALL: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 20,
    "messages": [{"role": "user", "content": "a very private prompt"}],
}
TOOLS = [
    {
        "name": "look_up",
        "description": "d",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "day": {"type": "string"}},
            "required": ["city", "day"],
        },
    }
]
LONG = "output=200,pace=0.05"  # ten seconds: whoever leaves it early is noticed long before its end
FAST_RETRY = "retry-after=0.001"


def words(count: int) -> str:
    return "".join(f"w{n} " for n in range(count))


def demo(header: str, tag: str | None = None) -> dict[str, Any]:
    return {"extra_headers": {"x-demo": header, **({"x-demo-tag": tag} if tag else {})}}


def facts(message: Any) -> dict[str, Any]:
    """A message without its ids and without what is null."""
    whole: dict[str, Any] = message.to_dict(exclude_none=True)
    blocks = [{name: value for name, value in block.items() if name != "id"} for block in whole["content"]]
    return {**whole, "id": None, "content": blocks}


def read_kinds(stream: Any, into: list[str]) -> None:
    """Read a stream that fails, keeping what came before."""
    for event in stream:
        into.append(event.type)


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def sdk(running: Provider) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=running.url, api_key="sk-private") as client:
        yield client


@pytest.fixture
def provider(running: Provider) -> Provider:
    running.wait()
    running.clear()
    return running


@pytest.fixture
def client(sdk: Any, provider: Provider) -> Any:
    return sdk


@pytest.fixture
def once(client: Any) -> Any:
    return client.with_options(max_retries=0)


# -- answers -----------------------------------------------------------------------------------------------------------


def test_plain_call(client: Any, provider: Provider) -> None:
    reply = client.messages.create(**CALL)
    assert (reply.type, reply.role, reply.model, reply.stop_reason) == ("message", "assistant", MODEL, "max_tokens")
    assert [block.text for block in reply.content] == [words(20)]
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (
        -(-len("user" + "a very private prompt") // 4) + 7,
        20,
    )
    assert reply._request_id == provider.requests[0].request_id


def test_input_is_a_quarter_of_the_bytes_of_all_strings_plus_seven(client: Any) -> None:
    body: dict[str, Any] = {
        "system": "äö",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 9}]}],
    }
    size = len("äö".encode()) + len("user" + "text") + 9
    assert client.messages.count_tokens(model=MODEL, **body).input_tokens == -(-size // 4) + 7
    assert client.messages.create(model=MODEL, max_tokens=1, **body).usage.input_tokens == -(-size // 4) + 7
    longer = client.messages.count_tokens(model=MODEL, tools=TOOLS, **body).input_tokens
    assert longer > -(-size // 4) + 7


def test_output_is_the_smaller_of_bound_and_default(client: Any) -> None:
    reply = client.messages.create(**{**CALL, "max_tokens": 1000})
    assert (reply.usage.output_tokens, reply.stop_reason, reply.content[0].text) == (40, "end_turn", words(40))


def test_raw_stream_has_the_events_of_the_protocol(client: Any, provider: Provider) -> None:
    events = list(client.messages.create(**CALL, stream=True))
    kinds = [event.type for event in events]
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 20,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0].message.usage.output_tokens == 1
    assert events[-2].usage.output_tokens == 20
    assert provider.requests[0].events_sent == len(kinds) + 1  # and a ping, which the SDK keeps to itself


@pytest.mark.parametrize(
    "header",
    [
        "",
        "input=1000,cache_read=500,cache_write_1h=100,cache_write_5m=7",
        "output=12,thinking=5",
        "tool=1",
        "pace=0.001",
    ],
)
@pytest.mark.parametrize("beta", [False, True])
def test_stream_helper_ends_in_the_same_message_as_a_plain_call(client: Any, header: str, beta: bool) -> None:
    messages = client.beta.messages if beta else client.messages
    call = {**CALL, "tools": TOOLS, **demo(header)}
    plain = messages.create(**call)
    with messages.stream(**call) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "".join(block.text for block in plain.content if block.type == "text")
    assert facts(final) == facts(plain)


def test_async_plain_stream_and_helper(provider: Provider) -> None:
    async def main() -> None:
        async with anthropic.AsyncAnthropic(base_url=provider.url, api_key="demo") as client:
            assert (await client.messages.create(**CALL)).usage.output_tokens == 20
            events = [event async for event in await client.messages.create(**CALL, stream=True)]
            assert events[-1].type == "message_stop"
            async with client.beta.messages.stream(**CALL) as stream:
                assert "".join([text async for text in stream.text_stream]) == words(20)
                assert (await stream.get_final_message()).usage.output_tokens == 20

    asyncio.run(main())


def test_beta_takes_the_same_path(client: Any, provider: Provider) -> None:
    assert client.beta.messages.create(**CALL).usage.output_tokens == 20
    assert provider.requests[0].path == "/v1/messages"
    raw = httpx2.post(f"{provider.url}/v1/messages?beta=true", json=CALL)
    assert raw.json()["usage"]["output_tokens"] == 20
    assert provider.requests[1].query == "beta=true"


def test_models_and_unknown_paths(client: Any, once: Any) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    with pytest.raises(anthropic.NotFoundError) as caught:
        once.post("/v1/nothing", cast_to=object, body={})
    assert caught.value.body["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("missing", ["model", "max_tokens", "messages"])
def test_a_request_without_its_fields_is_refused(provider: Provider, missing: str) -> None:
    body = {name: value for name, value in CALL.items() if name != missing}
    answer = httpx2.post(f"{provider.url}/v1/messages", json=body)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, f"{missing}: Field required")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"[" * 100_000, b'{"model":1,"max_tokens":1,"messages":[1]}']
)
def test_a_body_of_another_shape_is_refused(provider: Provider, body: bytes) -> None:
    answer = httpx2.post(f"{provider.url}/v1/messages", content=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


# -- steering one call -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (408, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "api_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_status(once: Any, provider: Provider, status: int, kind: str, stream: bool) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        once.messages.create(**CALL, stream=stream, **demo(f"status={status}, retry-after=7"))
    assert caught.value.status_code == status
    assert caught.value.body["error"]["type"] == kind
    assert caught.value.body["request_id"] == provider.requests[0].request_id
    assert caught.value.response.headers["retry-after"] == "7"
    assert (provider.requests[0].status, provider.requests[0].usage) == (status, None)


@pytest.mark.parametrize("status", [429, 500, 529])
def test_the_sdk_retries_and_its_count_shows(client: Any, provider: Provider, status: int) -> None:
    with pytest.raises(anthropic.APIStatusError):
        client.with_options(max_retries=3).messages.create(**CALL, **demo(f"status={status},{FAST_RETRY}"))
    assert [seen.retry_count for seen in provider.requests] == [0, 1, 2, 3]


@pytest.mark.parametrize("tag", [None, "call-1"])
def test_fail_first_with_the_sdks_retries(client: Any, provider: Provider, tag: str | None) -> None:
    reply = client.messages.create(**CALL, **demo(f"fail_first=2:500,{FAST_RETRY}", tag))
    assert reply.usage.output_tokens == 20
    assert [(seen.status, seen.retry_count, seen.tag) for seen in provider.requests] == [
        (500, 0, tag),
        (500, 1, tag),
        (200, 2, tag),
    ]


def test_fail_first_counts_by_tag_over_calls(once: Any, provider: Provider) -> None:
    for _ in range(2):
        with pytest.raises(anthropic.RateLimitError):
            once.messages.create(**CALL, **demo("fail_first=2:429", "mine"))
        with pytest.raises(anthropic.RateLimitError):
            once.messages.create(**CALL, **demo("fail_first=2:429", "other"))
    assert once.messages.create(**CALL, **demo("fail_first=2:429", "mine")).usage.output_tokens == 20
    provider.clear()
    with pytest.raises(anthropic.RateLimitError):
        once.messages.create(**CALL, **demo("fail_first=2:429", "mine"))


@pytest.mark.parametrize("pace", ["0", "0.001"])
@pytest.mark.parametrize("cut", [0, 1, 5])
def test_cut_stream(once: Any, provider: Provider, cut: int, pace: str) -> None:
    stream, events = once.messages.create(**CALL, stream=True, **demo(f"cut={cut},pace={pace}")), list[str]()
    with pytest.raises((httpx2.RemoteProtocolError, anthropic.APIConnectionError)):
        read_kinds(stream, events)
    expected = ["message_start", "content_block_start", "content_block_delta", "content_block_delta"]
    assert events == expected[: {0: 0, 1: 1, 5: 4}[cut]]  # the third event is the ping
    assert (provider.requests[0].events_sent, provider.requests[0].disconnected) == (cut, False)


def test_a_stream_that_stalls_sends_nothing_more(once: Any, provider: Provider) -> None:
    patient = httpx2.Timeout(30, read=0.2)
    events: list[str] = []
    stream = once.with_options(timeout=patient).messages.create(**CALL, stream=True, **demo("stall=5"))
    with pytest.raises(httpx2.ReadTimeout):
        read_kinds(stream, events)
    provider.wait()
    assert len(events) == 4  # a ping is no event of the SDK
    assert (provider.requests[0].events_sent, provider.requests[0].disconnected) == (5, True)


def test_a_schema_is_followed(client: Any) -> None:
    schema = {"type": "object", "properties": {"where": {"type": "string"}}, "required": ["where"]}
    reply = client.messages.create(**CALL, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert json.loads(reply.content[0].text) == {"where": "w0"}


def test_cut_plain_call_has_no_answer(once: Any, provider: Provider) -> None:
    with pytest.raises(anthropic.APIConnectionError):
        once.messages.create(**CALL, **demo("cut=0"))
    assert provider.requests[0].status is None
    assert provider.requests[0].usage is not None  # the model ran


def test_error_event_inside_a_stream(once: Any, provider: Provider) -> None:
    stream, events = once.messages.create(**CALL, stream=True, **demo("error_event=4")), list[str]()
    with pytest.raises(anthropic.APIStatusError) as caught:
        read_kinds(stream, events)
    assert events == ["message_start", "content_block_start", "content_block_delta"]
    assert caught.value.body["error"]["type"] == "overloaded_error"
    assert (provider.requests[0].status, provider.requests[0].events_sent) == (200, 5)


def test_no_usage(client: Any, provider: Provider) -> None:
    assert client.messages.create(**CALL, **demo("usage=none")).usage is None
    events = list(client.messages.create(**CALL, stream=True, **demo("usage=none")))
    assert (events[0].message.usage, events[-2].usage, len(events)) == (None, None, 25)
    for seen in provider.requests:
        assert seen.usage is not None
        assert seen.usage["output_tokens"] == 20


def test_usage_as_told(client: Any) -> None:
    header = "input=1000,cache_read=500,cache_write_1h=100,cache_write_5m=7,output=120,thinking=30"
    reply = client.messages.create(**CALL, **demo(header))
    usage = reply.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (1000, 500, 107)
    assert usage.cache_creation.ephemeral_1h_input_tokens == 100
    assert usage.cache_creation.ephemeral_5m_input_tokens == 7
    assert usage.output_tokens == 120  # above max_tokens, on purpose
    assert usage.output_tokens_details.thinking_tokens == 30
    assert [block.type for block in reply.content] == ["thinking", "text"]
    assert reply.content[1].text == words(90)


def test_model_as_told(client: Any, provider: Provider) -> None:
    assert client.messages.create(**CALL, **demo("model=claude-other-9")).model == "claude-other-9"
    assert provider.requests[0].model == MODEL


def test_tool_call_fills_what_is_required(client: Any, once: Any) -> None:
    reply = client.messages.create(**CALL, tools=TOOLS, **demo("tool=1"))
    assert (reply.stop_reason, reply.content[0].name) == ("tool_use", "look_up")
    assert reply.content[0].input == {"city": "w0", "day": "w1"}
    with pytest.raises(anthropic.BadRequestError, match="no tool"):
        once.messages.create(**CALL, **demo("tool=1"))


@pytest.mark.parametrize("header", ["latency=30", "hang=30"])
def test_a_client_that_times_out_is_noticed(once: Any, provider: Provider, header: str) -> None:
    with pytest.raises(anthropic.APITimeoutError):
        once.messages.create(**CALL, timeout=httpx2.Timeout(30, read=0.2), **demo(header))
    while not provider.requests:  # it may read what was sent after nobody waits any more
        time.sleep(0.001)
    provider.wait()
    assert (provider.requests[0].disconnected, provider.requests[0].status) == (True, None)


def test_hang_ends_without_an_answer(once: Any, provider: Provider) -> None:
    with pytest.raises(anthropic.APIConnectionError):
        once.messages.create(**CALL, **demo("hang=0.01"))
    assert (provider.requests[0].disconnected, provider.requests[0].status) == (False, None)


@pytest.mark.parametrize(
    ("header", "named"),
    [("speed=9", "speed"), ("latency=soon", "latency"), ("output=-1", "output"), ("status=200,tool=yes", "tool"),
     ("status=302", "status"), ("fail_first=2", "fail_first"), ("pace=nan", "pace"), ("hang=inf", "hang"),
     ("usage=some", "usage")],
)  # fmt: skip
def test_a_header_that_makes_no_sense_is_refused(once: Any, header: str, named: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=named):
        once.messages.create(**CALL, **demo(header))


# -- disconnects -------------------------------------------------------------------------------------------------------


def test_a_stream_left_early_is_noticed(client: Any, provider: Provider, capfd: pytest.CaptureFixture[str]) -> None:
    with client.messages.create(**CALL, stream=True, **demo(LONG)) as stream:
        for _, event in zip(range(4), stream, strict=False):
            assert event.type != "message_stop"
    provider.wait()
    seen = provider.requests[0]
    assert seen.disconnected
    assert 5 <= seen.events_sent < 200
    assert capfd.readouterr() == ("", "")


def test_a_cancelled_task_is_noticed(provider: Provider, capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with anthropic.AsyncAnthropic(base_url=provider.url, api_key="demo") as client:
            async with client.messages.stream(**CALL, **demo(LONG)) as stream:
                await anext(aiter(stream.text_stream))
            waiting = asyncio.create_task(client.messages.create(**CALL, **demo("latency=30")))
            while len(provider.requests) < 2:
                await asyncio.sleep(0.001)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await asyncio.to_thread(provider.wait)

    asyncio.run(main())
    assert [seen.disconnected for seen in provider.requests] == [True, True]
    assert capfd.readouterr() == ("", "")


def test_a_complete_answer_is_no_disconnect(client: Any, provider: Provider) -> None:
    list(client.messages.create(**CALL, stream=True, **demo("pace=0.001")))
    client.messages.create(**CALL)
    provider.wait()
    assert [seen.disconnected for seen in provider.requests] == [False, False]


def test_wait_says_that_it_gave_up(once: Any, provider: Provider) -> None:
    stream = once.messages.create(**CALL, stream=True, **demo(LONG))
    with pytest.raises(TimeoutError, match="1 requests"):
        provider.wait(timeout=0.01)
    stream.close()


# -- the log, the server, the script -----------------------------------------------------------------------------------


def test_the_log(client: Any, provider: Provider) -> None:
    client.messages.create(**CALL, **demo("output=3", "first"))
    list(client.messages.create(**CALL, stream=True, **demo("output=4", "second")))
    client.messages.count_tokens(model=MODEL, messages=CALL["messages"])
    first, second, third = provider.requests
    assert (first.method, first.path, first.model, first.stream) == ("POST", "/v1/messages", MODEL, False)
    assert (first.max_tokens, first.tag, first.status, second.stream, second.tag) == (20, "first", 200, True, "second")
    assert first.usage is not None
    assert second.usage is not None
    assert (first.usage["output_tokens"], second.usage["output_tokens"], third.usage) == (3, 4, None)
    assert (third.path, third.max_tokens) == ("/v1/messages/count_tokens", None)
    assert first.at <= second.at <= third.at
    assert len({seen.request_id for seen in provider.requests}) == 3
    assert first.headers["x-demo"] == "output=3"
    assert "anthropic-version" in first.headers
    assert first.body_bytes > len(CALL["messages"][0]["content"])
    assert "private" not in repr(provider.requests)  # neither the prompt nor the key


def test_a_request_shows_neither_key_nor_prompt() -> None:
    shown: list[str] = []

    def script(request: Request) -> Reply:
        shown.append(repr(request))
        return Reply()

    with Provider(script=script) as own:
        keys = {"x-api-key": "sk-private", "authorization": "Bearer sk-private", "cookie": "private"}
        httpx2.post(f"{own.url}/v1/messages", json=CALL, headers=keys)
    assert len(shown) == len(own.requests) == 1
    assert "private" not in shown[0] + repr(own.requests)


def test_a_hundred_calls_at_once_each_get_their_own_answer(provider: Provider) -> None:
    async def main() -> list[Any]:
        async with anthropic.AsyncAnthropic(base_url=provider.url, api_key="demo") as client:
            calls = [
                client.messages.create(**CALL, **demo(f"input={n},output={n % 20},latency=0.05", str(n)))
                for n in range(100)
            ]
            return await asyncio.gather(*calls)

    replies = asyncio.run(main())
    assert [reply.usage.input_tokens for reply in replies] == list(range(100))
    assert [reply.content[0].text for reply in replies] == [words(n % 20) for n in range(100)]
    assert {seen.tag for seen in provider.requests} == {str(n) for n in range(100)}
    assert len({reply.id for reply in replies}) == 100


def raw_request(body: bytes, *headers: str) -> bytes:
    lines = ["POST /v1/messages HTTP/1.1", "host: x", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def connect(provider: Provider) -> socket.socket:
    host, port = provider.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def read_reply(reader: Any) -> tuple[int, Any]:
    status = int(reader.readline().split()[1])
    length = 0
    while line := reader.readline().strip():
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    body = reader.read(length)
    return status, json.loads(body) if body else None


def test_three_hundred_connections_open_at_once(provider: Provider) -> None:
    body = json.dumps(CALL).encode()
    request = raw_request(body, f"content-length: {len(body)}")
    sockets = [connect(provider) for _ in range(300)]
    try:
        for each in sockets:
            each.sendall(request)
        assert [read_reply(each.makefile("rb"))[0] for each in sockets] == [200] * 300
    finally:
        for each in sockets:
            each.close()


def test_http_keep_alive_pipelining_chunks_and_close(provider: Provider) -> None:
    body = json.dumps({**CALL, "messages": [{"role": "user", "content": "ä" * 300}]}).encode()
    plain = raw_request(body, f"Content-Length: {len(body)}")
    pieces = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:90], body[90:]))
    chunked = raw_request(pieces + b"0\r\nTrailer: x\r\n\r\n", "Transfer-Encoding: chunked")
    with connect(provider) as each, each.makefile("rb") as reader:
        each.sendall(plain + plain)
        first, second = read_reply(reader), read_reply(reader)
        for start in range(0, len(chunked), 11):
            each.sendall(chunked[start : start + 11])
        third = read_reply(reader)
        each.sendall(raw_request(body, f"content-length: {len(body)}", "connection: close"))
        fourth = read_reply(reader)
        assert reader.read() == b""  # closed, as asked
    assert [status for status, _ in (first, second, third, fourth)] == [200] * 4
    assert len({reply["usage"]["input_tokens"] for _, reply in (first, second, third, fourth)}) == 1


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (raw_request(b"", "content-length: many"), 400),
        (raw_request(b"", "content-length: -1"), 413),
        (raw_request(b"", "content-length: 99999999999"), 413),
        (raw_request(b"zz\r\n", "transfer-encoding: chunked"), 400),
        (raw_request(b"-5\r\n", "transfer-encoding: chunked"), 413),
        (b"x" * 70_000, 431),
    ],
)
def test_what_is_not_http_is_refused_and_closed(provider: Provider, request_bytes: bytes, status: int) -> None:
    with connect(provider) as each, each.makefile("rb") as reader:
        each.sendall(request_bytes)
        assert read_reply(reader) == (status, None)
        assert reader.read() == b""
    assert provider.requests == []


def test_script_decides_and_the_header_still_changes() -> None:
    def script(request: Request) -> Reply:
        turns = len(request.json["messages"])
        return Reply(tool=True) if turns == 1 else Reply(output=turns)

    with Provider(script=script) as own, anthropic.Anthropic(base_url=own.url, api_key="demo") as client:
        first = client.messages.create(**CALL, tools=TOOLS)
        assert first.stop_reason == "tool_use"
        more = [*CALL["messages"], {"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]
        assert client.messages.create(**{**CALL, "messages": more}).usage.output_tokens == 3
        steered = client.messages.create(**{**CALL, "messages": more}, **demo("output=9"))
        assert steered.usage.output_tokens == 9


def test_a_script_that_raises_is_not_retried() -> None:
    def script(request: Request) -> Reply:
        raise KeyError(request.path)

    with Provider(script=script) as own, anthropic.Anthropic(base_url=own.url, api_key="demo") as client:
        with pytest.raises(anthropic.BadRequestError, match="script raised KeyError"):
            client.messages.create(**CALL)
        assert len(own.requests) == 1


def test_the_servers_own_defaults_and_their_override() -> None:
    with Provider(latency=30, output_tokens=2) as own, anthropic.Anthropic(base_url=own.url, api_key="k") as client:
        assert client.messages.create(**CALL, **demo("latency=0")).usage.output_tokens == 2
        with pytest.raises(anthropic.APITimeoutError):
            client.with_options(max_retries=0).messages.create(**CALL, timeout=httpx2.Timeout(30, read=0.2))


def test_stop_is_clean_also_in_the_middle(capfd: pytest.CaptureFixture[str]) -> None:
    before = set(threading.enumerate())
    with Provider() as own, anthropic.Anthropic(base_url=own.url, api_key="demo", max_retries=0) as client:
        stream = client.messages.create(**CALL, stream=True, **demo(LONG))
        next(iter(stream))
        idle = connect(own)
        hanging = connect(own)
        hanging.sendall(raw_request(b"", "x-demo: hang=60"))
        while len(own.requests) < 2:
            pass
        own.__exit__(None, None, None)
        assert set(threading.enumerate()) == before
        with pytest.raises((httpx2.HTTPError, anthropic.APIConnectionError)):
            list(stream)
        with pytest.raises(ConnectionRefusedError):
            connect(own)
        for each in (idle, hanging):
            with each, contextlib.suppress(ConnectionResetError):
                assert each.recv(1) == b""  # closed by the server
    assert [seen.disconnected for seen in own.requests] == [False, False]  # the server left, not the client
    gc.collect()
    assert capfd.readouterr() == ("", "")


def test_a_port_can_be_named_and_a_taken_one_is_an_error() -> None:
    with Provider() as first:
        port = int(first.url.rsplit(":", 1)[1])
        before = set(threading.enumerate())
        with pytest.raises(errors.ConfigError, match=f"port.*{port}"), Provider(port=port):
            raise AssertionError("not reached")
        assert set(threading.enumerate()) == before
    with Provider(port=port) as again:
        assert again.url == first.url


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"latency": -1.0}, errors.ConfigError),
        ({"latency": "1"}, errors.ArgumentTypeError),
        ({"output_tokens": 1.5}, errors.ArgumentTypeError),
        ({"output_tokens": -3}, errors.ConfigError),
        ({"port": 70_000}, errors.ConfigError),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments)).split("_")[0]), Provider(**arguments):
        raise AssertionError("not reached")


def test_only_the_standard_library() -> None:
    code = "import sys, budget.demo.provider as p; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(loaded) - set(sys.stdlib_module_names) <= {"budget", "__main__", "__mp_main__", "sitecustomize"}
