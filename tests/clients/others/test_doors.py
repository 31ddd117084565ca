"""No bypass: whatever the installed SDKs post to is reserved for, refused, or listed here as free, with its reason.

Twice: every path that stands in an SDK's source is sent through the seam, and every public method that can be called
with simple arguments is called on a guarded client. `boto3` has its operations in a model: `test_surfaces.py`.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from budget import Budget, BudgetError, Unbounded
from budget.clients import self_test
from budget.demo.provider import Provider
from tests.clients.others.drivers import CHAT, Bedrock, Cohere, Driver, Google, Groq, Mistral

ID = "ID"
# By SDK: what is posted to and passes, and why it costs nothing.
FREE: dict[type[Driver], dict[str, str]] = {
    Google: {
        ":countTokens": "it counts",
        ":computeTokens": "it counts",
        ":cancel": "it ends what runs",
        ":fetchPredictOperation": "it asks how far something is",
        "/files": "it keeps a file; what reads it is a request of its own",
        "files:register": "it names files; what reads them is a request of its own",
        "fileSearchStores": "it makes an empty store; what is put in is refused",
    },
    Mistral: {
        "/v1/files": "it keeps a file; what reads it is a request of its own",
        "/v1/responses/input_tokens": "it counts",
        "/cancel": "it ends what runs",
        "/archive": "it hides a model",
    },
    Groq: {"/v1/files": "it keeps a file; what reads it is a request of its own", "/cancel": "it ends what runs"},
    Cohere: {
        "v1/tokenize": "it counts",
        "v1/detokenize": "it writes tokens as text",
        "v1/check-api-key": "it says yes or no",
    },
}
METERED = {
    Google: "generateContent streamGenerateContent embedContent batchEmbedContents",
    Mistral: "/v1/chat/completions /v1/fim/completions /v1/embeddings",
    Groq: "/openai/v1/chat/completions",
    Cohere: "v1/chat v2/chat v1/embed v2/embed",
}
KINDS = tuple(METERED)


# Every path.


def _sources(package: str) -> Iterator[str]:
    for path in sorted(Path(import_module(package).__file__ or "").parent.rglob("*.py")):
        yield path.read_text()


def _found(package: str, pattern: str) -> set[str]:
    return {path.partition("#")[0] for text in _sources(package) for path in re.findall(pattern, text)}


def _google(package: str) -> set[str]:
    """Return the paths of functions that post; a path stands in a variable there."""
    found = set()
    for text in _sources(package):
        if "_api_client." not in text:
            continue
        for function in ast.walk(ast.parse(text)):
            if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            inside = list(ast.walk(function))
            verbs = {each.value for each in inside if isinstance(each, ast.Constant) and each.value in ("post", "POST")}
            named = [each.value for each in inside if isinstance(each, ast.Assign) and _is_path(each.targets[0])]
            paths = {leaf.value for value in named for leaf in ast.walk(value) if isinstance(leaf, ast.Constant)}
            found |= {path for path in paths if verbs and isinstance(path, str) and len(path) > 5}
    return found


def _is_path(target: Any) -> bool:
    return isinstance(target, ast.Name) and target.id == "path"


PATHS: dict[type[Driver], Callable[[], set[str]]] = {
    Google: lambda: _google("google.genai"),
    Mistral: lambda: _found("mistralai.client", r'method="POST",\s+path="([^"]+)"'),
    Groq: lambda: _found("groq", r'\._post\(\s*(?:path_template\(\s*)?f?"([^"]+)"'),
    Cohere: lambda: _found("cohere", r'httpx_client\.(?:request|stream)\(\s*f?"([^"]+)",[^"]*method="POST"'),
}


def _send(kind: type[Driver], client: Any, url: str, path: str) -> None:
    """Post to a path as the SDK's methods do, through what each of them passes."""
    path = re.sub(r"\{[^}]*\}", ID, path)
    if kind is Google:
        below = client._api_client
        below._request(below._build_request("post", path, {}, None))
    elif kind is Mistral:
        client.sdk_configuration.client.send(client.sdk_configuration.client.build_request("POST", f"{url}{path}"))
    elif kind is Groq:
        client[0].post(path, cast_to=object, body={})
    else:
        client[0]._client_wrapper.httpx_client.request(path, method="POST", json={}, omit=...)


@pytest.mark.parametrize("kind", KINDS)
def test_every_path_of_the_source_is_refused_metered_or_free(
    budget: Budget, provider: Provider, kind: type[Driver]
) -> None:
    pytest.importorskip(kind.package)
    paths, driver = PATHS[kind](), kind()
    assert len(paths) >= 7  # the walk found the SDK, not a corner of it
    for metered in METERED[kind].split():
        assert any(path.endswith(metered) for path in paths) or kind is Google  # which makes some of its paths
    client = driver.guard(budget, driver.make(provider.url, 0))
    for path in paths:
        sent, refused = len(provider.requests), False
        try:
            _send(kind, client, provider.url, path)
        except BudgetError:
            refused = len(provider.requests) == sent
        except Exception:  # there is no such path here
            pass
        assert refused or path.endswith(tuple(FREE[kind])), path


def test_bedrock_has_no_other_doors(budget: Budget) -> None:
    pytest.importorskip("boto3")
    client = Bedrock().make("http://127.0.0.1:9", 0)
    doors = {name for name in dir(client) if not name.startswith("_")} - set(client.meta.method_to_api_mapping)
    assert doors == {
        "can_paginate", "close", "exceptions", "generate_presigned_url", "get_paginator", "get_waiter", "meta",
        "waiter_names",
    }  # fmt: skip


# Every method.

_GIVEN = (ID, [ID], {})  # tried in this order: what an argument is without a default
_NAMED: dict[str, Any] = {"messages": CHAT, "contents": "hi", "texts": ["a"], "inputs": "a", "file": ("f.txt", b"x")}
_SKIPPED = ("close", "aclose", "do_request", "do_request_async")  # what ends the client, and what is below the others


def _resources(thing: Any, package: str, trail: str, seen: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield a client's resources and those of theirs, but for the raw and streaming variants of each."""
    seen.append(thing)
    yield trail, thing
    for name in dict.fromkeys([*getattr(type(thing), "_sub_sdk_map", ()), *dir(type(thing)), *vars(thing)]):
        if name.startswith(("_", "with_", "parent_ref", "sdk_")) or inspect.isfunction(getattr(type(thing), name, 0)):
            continue
        try:
            value = getattr(thing, name)
        except Exception:  # refused: `test_surfaces.py` has those
            continue
        ours = type(value).__module__.startswith(f"{package}.") and hasattr(value, "__dict__")
        if ours and not isinstance(value, type) and not any(value is other for other in seen):
            yield from _resources(value, package, f"{trail}.{name}".lstrip("."), seen)


async def _use(method: Any, arguments: dict[str, Any]) -> None:
    """Call a method and use what it returns."""
    result = method(**arguments)
    for _ in range(3):
        if inspect.isawaitable(result):
            result = await result
        elif hasattr(result, "__aenter__"):
            result = await result.__aenter__()
        elif hasattr(result, "__aiter__"):
            result = await anext(aiter(result))
        elif hasattr(result, "__enter__"):
            result = result.__enter__()
        elif hasattr(result, "__iter__"):
            result = next(iter(result))


class Walk:
    """What the methods of a client did: sent a POST that nobody reserved for, were reserved for, or were refused."""

    def __init__(self, budget: Budget, provider: Provider, model: str):
        self.unreserved: dict[str, str] = {}
        self.reserved: set[str] = set()
        self.refused: set[str] = set()
        self._budget, self._provider, self._model = budget, provider, model

    async def client(self, client: Any, package: str) -> None:
        """Call all methods of a client."""
        for trail, resource in _resources(client, package, "", []):
            for name in dir(type(resource)):
                function = inspect.getattr_static(type(resource), name)
                if not name.startswith(("_", "with_")) and name not in _SKIPPED and inspect.isfunction(function):
                    await self._method(f"{trail}.{name}".lstrip("."), getattr(resource, name))

    async def _method(self, way: str, method: Any) -> None:
        needed = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
        needed = [p for p in needed if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        more = {"model": self._model} if "model" in inspect.signature(method).parameters else {}
        for given in _GIVEN:
            sent, reserved = len(self._provider.requests), self._reservations()
            try:
                await _use(method, {p.name: _NAMED.get(p.name, given) for p in needed} | more)
            except Unbounded:
                self.refused.add(way)
            except Exception:  # it needs others, or there is no such path here
                pass
            if self._reservations() > reserved:
                self.reserved.add(way)
            else:
                posted = [each.path for each in self._provider.requests[sent:] if each.method == "POST"]
                self.unreserved.update({way: posted[0]} if posted else {})
            if len(self._provider.requests) > sent or way in self.refused:
                return

    def _reservations(self) -> int:
        return sum(entry.kind == "reserved" for entry in self._budget.entries())


SOME = {
    Google: "models.generate_content models.generate_content_stream models.embed_content aio.models.generate_content "
    "aio.models.generate_content_stream aio.models.embed_content",
    Mistral: "chat.complete chat.complete_async chat.stream chat.stream_async embeddings.create fim.complete "
    "fim.stream",
    Groq: "chat.completions.create",
    Cohere: "v2.chat v2.chat_stream",
}
"""Methods that everybody uses."""


@pytest.mark.parametrize("kind", KINDS)
def test_no_method_posts_unreserved_but_what_is_free(budget: Budget, provider: Provider, kind: type[Driver]) -> None:
    pytest.importorskip(kind.package)
    driver = kind()
    walk = Walk(budget, provider, driver.model)
    client = driver.guard(budget, driver.make(provider.url, 0))

    async def main() -> None:
        for each in client if driver.two else (client,):
            await walk.client(each, kind.package.partition(".")[0])
        await driver.aclose(client)

    asyncio.run(main())
    assert not {way: path for way, path in walk.unreserved.items() if not path.endswith(tuple(FREE[kind]))}
    assert walk.reserved >= set(SOME[kind].split())
    assert len(walk.refused) >= 5


def test_the_self_test_sees_what_guarding_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "boto3": "botocore.endpoint.Endpoint._get_response",
        "cohere": "cohere.core.http_client.AsyncHttpClient.stream",
        "google-genai": "google.genai._api_client.BaseApiClient._request_once",
        "groq": "groq._base_client.SyncAPIClient._prepare_request",
        "mistralai": "mistralai.client.basesdk.BaseSDK.do_request_async",
    }
    found = self_test()
    assert {name: found[name] for name in names if name in found} == dict.fromkeys(names, "")
    for path in names.values():
        monkeypatch.delattr(path)
    found = self_test()
    assert {name: found[name] for name in names} == {name: path.rpartition(".")[2] for name, path in names.items()}
