"""Reports are asked for as they are documented, with patience, and the admin key goes nowhere else."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bill.month import DAY_0, DAY_US, make_month
from bill.vendors import KEYS, Vendors
from budget import __version__
from budget.bill import PROVIDERS, BillFile, BillUnavailable, Fetcher, pull
from budget.errors import ConfigError

OPENAI, ANTHROPIC = PROVIDERS["openai"], PROVIDERS["anthropic"]


def fill(vendors: Vendors, seed: int = 0) -> None:
    vendors.calls = [call.theirs for call in make_month(seed) if call.theirs]


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(("width", "page", "days"), [("1d", 3, 7), ("1h", 50, 7), ("1m", 500, 1)])
def test_pages_and_widths_bring_the_same(name: str, width: str, page: int, days: int, vendors: Vendors) -> None:
    """However many buckets a page has, and however wide they are, the sums are the same."""
    fill(vendors)
    bill, provider = BillFile(None), PROVIDERS[name]
    vendors.calls = [call for call in vendors.calls if call.provider == name and call.ended < (DAY_0 + days) * DAY_US]
    expected = sum(sum(call.tokens.values()) for call in vendors.calls)
    vendors.page = page
    pull(Fetcher(provider, vendors.url), bill, DAY_0, DAY_0 + days - 1, 1, width)
    used = list(bill.used(name, DAY_0, DAY_0 + days - 1))
    assert sum(u.input + u.cache_read + sum(u.cache_write.values()) + u.output for u in used) == expected
    picos = sum(call.picos(kind) for call in vendors.calls for kind in call.tokens)
    charged = [each for each in bill.charged(name, DAY_0, DAY_0 + days - 1) if each.model]
    assert abs(sum(each.nanos for each in charged) - picos // 1000) <= 100 * len(charged)
    assert vendors.agents == {f"budget/{__version__}"}
    bill.close()


def test_the_maximum_of_a_page_is_asked_for_and_no_more(vendors: Vendors) -> None:
    for provider in PROVIDERS.values():
        for width in ("1d", "1h", "1m"):
            for report in provider.reports:
                list(Fetcher(provider, vendors.url).pages(report, DAY_0 * DAY_US, (DAY_0 + 1) * DAY_US, width))
    limits = {(path, dict(query)["bucket_width"]): dict(query)["limit"] for path, query in vendors.asked}
    assert limits["/v1/organization/usage/completions", "1m"] == "1440"
    assert limits["/v1/organizations/usage_report/messages", "1h"] == "168"
    assert {width for path, width in limits if path.endswith(("costs", "cost_report"))} == {"1d"}


def test_busy_providers_are_waited_for(vendors: Vendors) -> None:
    """As long as they ask for; a connection that breaks is tried again too."""
    waits: list[float] = []
    vendors.trouble = [(429, {"retry-after": "7"}), (503, {}), None, (529, {"retry-after": "86400"})]
    pages = list(Fetcher(ANTHROPIC, vendors.url, waits.append).pages(ANTHROPIC.reports[0], 0, DAY_US))
    assert len(pages) == 1
    assert waits == [7.0, 2.0, 4.0, 120.0]


def test_a_provider_that_stays_busy_is_given_up(vendors: Vendors) -> None:
    vendors.trouble = [(429, {})] * 9
    with pytest.raises(BillUnavailable, match="messages of anthropic answers 429: not now"):
        list(Fetcher(ANTHROPIC, vendors.url, lambda _: None).pages(ANTHROPIC.reports[0], 0, DAY_US))
    assert len(vendors.asked) == 6


def test_a_wrong_key_is_refused_at_once_and_shown_nowhere(vendors: Vendors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-wrong")
    with pytest.raises(BillUnavailable, match="is OPENAI_ADMIN_KEY an admin key") as raised:
        list(Fetcher(OPENAI, vendors.url).pages(OPENAI.reports[0], 0, DAY_US))
    assert "wrong" not in str(raised.value)
    assert len(vendors.asked) == 1


def test_a_bad_request_is_said_and_not_repeated(vendors: Vendors) -> None:
    with pytest.raises(BillUnavailable, match="400: end_time: must be after start_time"):
        list(Fetcher(OPENAI, vendors.url).pages(OPENAI.reports[0], DAY_US, DAY_US))
    assert len(vendors.asked) == 1


def test_without_a_key_nothing_is_asked(vendors: Vendors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_ADMIN_KEY")
    with pytest.raises(ConfigError, match="ANTHROPIC_ADMIN_KEY: set it"):
        Fetcher(ANTHROPIC, vendors.url)
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", "two\nlines")
    with pytest.raises(ConfigError, match="characters"):
        Fetcher(ANTHROPIC, vendors.url)


@pytest.mark.parametrize("url", ["http://example.com", "ftp://127.0.0.1", "https://", "https://u:p@host", "https://h?x=1"])
def test_the_key_is_sent_over_tls_or_not_at_all(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        Fetcher(OPENAI, url)
    assert Fetcher(OPENAI, "https://proxy.example/v1/")._url == "https://proxy.example"


@contextmanager
def answering(status: int, headers: dict[str, str], content: bytes) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_redirect_is_not_followed(vendors: Vendors) -> None:
    """Who sends a request on would have the key."""
    elsewhere = {"location": f"{vendors.url}/v1/organization/costs"}
    with answering(302, elsewhere, b"") as url, pytest.raises(BillUnavailable, match="302"):
        list(Fetcher(OPENAI, url).pages(OPENAI.report("costs"), 0, DAY_US))
    assert vendors.asked == []


def test_no_proxy_sees_a_key_that_is_not_encrypted(vendors: Vendors, monkeypatch: pytest.MonkeyPatch) -> None:
    with Vendors() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert len(list(Fetcher(OPENAI, vendors.url).pages(OPENAI.reports[0], 0, DAY_US))) == 1
        assert proxy.asked == []


BUCKET = {"starting_at": "2026-10-01T00:00:00Z", "ending_at": "2026-10-02T00:00:00Z"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("<html>", "not JSON"), ([], "no list of data"), ({"data": {}}, "no list of data"),
        ({"data": [{}]}, "starting_at: is not a time"), ({"data": [BUCKET]}, "KeyError"),
        ({"data": [], "has_more": True, "next_page": None}, "does not say which"),
        ({"data": [{**BUCKET, "results": [{"output_tokens": -1}]}]}, "output_tokens: is not a count"),
        ({"data": [{**BUCKET, "results": [{"output_tokens": 1.5}]}]}, "output_tokens: is not a count"),
    ],
)  # fmt: skip
def test_an_answer_of_another_shape_is_an_error(document: object, message: str) -> None:
    content = document.encode() if isinstance(document, str) else json.dumps(document).encode()
    with answering(200, {}, content) as url, pytest.raises(BillUnavailable, match=message):
        list(Fetcher(ANTHROPIC, url).pages(ANTHROPIC.reports[0], 0, DAY_US))


@pytest.mark.parametrize("amount", [None, "", "twelve", "NaN", "1e99", True])
def test_an_amount_that_is_none_is_an_error(amount: object) -> None:
    content = json.dumps({"data": [{**BUCKET, "results": [{"amount": amount, "currency": "USD"}]}]}).encode()
    with answering(200, {}, content) as url, pytest.raises(BillUnavailable, match="amount: is not an amount"):
        list(Fetcher(ANTHROPIC, url).pages(ANTHROPIC.report("costs"), 0, DAY_US))


def test_pages_that_go_in_circles_end() -> None:
    content = json.dumps({"data": [], "has_more": True, "next_page": "page_1"}).encode()
    with answering(200, {}, content) as url, pytest.raises(BillUnavailable, match="does not say which"):
        list(Fetcher(ANTHROPIC, url).pages(ANTHROPIC.reports[0], 0, DAY_US))


def test_amounts_are_exact(vendors: Vendors) -> None:
    """Cents as decimal text and dollars as JSON numbers never become floats."""
    text = '{"data": [{"starting_at": "2026-10-01T00:00:00Z", "ending_at": "2026-10-02T00:00:00Z", "results": '
    with answering(200, {}, (text + '[{"amount": "123.7891234567", "currency": "USD"}]}]}').encode()) as url:
        [page] = Fetcher(ANTHROPIC, url).pages(ANTHROPIC.report("costs"), 0, DAY_US)
        assert page.lines[0].nanos == 1_237_891_235  # type: ignore[union-attr]
    text = '{"data": [{"start_time": 0, "end_time": 86400, "results": [{"amount": {"value": 90071992.547409931, '
    with answering(200, {}, (text + '"currency": "usd"}, "line_item": null}]}]}').encode()) as url:
        [page] = Fetcher(OPENAI, url).pages(OPENAI.report("costs"), 0, DAY_US)
        assert page.lines[0].nanos == 90_071_992_547_409_931  # type: ignore[union-attr]


def test_the_key_is_in_no_error(vendors: Vendors) -> None:
    content = json.dumps({"error": {"message": f"what is {KEYS['openai']}?"}}).encode()
    with answering(400, {}, content) as url, pytest.raises(BillUnavailable, match=r"what is \*\*\*") as raised:
        list(Fetcher(OPENAI, url).pages(OPENAI.reports[0], 0, DAY_US))
    assert KEYS["openai"] not in str(raised.value)


def test_a_repeat_replaces_the_same_days(vendors: Vendors) -> None:
    """In whatever width: nothing is counted twice, and what lies beside stays."""
    fill(vendors)
    bill = BillFile(None)
    fetcher = Fetcher(ANTHROPIC, vendors.url)
    pull(fetcher, bill, DAY_0, DAY_0 + 9, 1)
    before = [(u.day, u.model, u.tier, u.output) for u in bill.used("anthropic", DAY_0, DAY_0 + 9)]
    rest = [row for row in before if row[0] != DAY_0 + 4]
    pull(fetcher, bill, DAY_0 + 4, DAY_0 + 4, 2, "1h")
    after = list(bill.used("anthropic", DAY_0, DAY_0 + 9))
    assert [(u.day, u.model, u.tier, u.output) for u in after if u.day != DAY_0 + 4] == rest
    assert sum(u.output for u in after) == sum(row[3] for row in before)
    assert bill.days("anthropic", "messages") == {DAY_0 + d: 2 if d == 4 else 1 for d in range(10)}
    vendors.calls = []
    pull(fetcher, bill, DAY_0 + 4, DAY_0 + 4, 3)
    assert {u.day for u in bill.used("anthropic", DAY_0, DAY_0 + 9)} == {row[0] for row in rest}
    bill.close()
