"""What the demo provider answers late: Message Batches, OpenAI's batches with their files, and background responses.

Shapes follow the types of the SDKs (`anthropic/types/messages/message_batch.py`, `openai/types/batch.py`,
`openai/types/file_object.py`), with which the tests read them. What becomes of a request in a batch is said by how its
`custom_id` begins: "errored", "canceled" and "expired" ones are not answered and not billed, all others are; of a batch
that is cancelled only those that are "done".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from budget.demo import chat, messages, responses
from budget.demo.reply import Reply
from budget.demo.server import Request
from budget.demo.turn import Rejected

__all__ = ["Later", "Lines"]

Lines = list[dict[str, Any]]
Answered = dict[str, Any] | Lines | bytes | None
_FAILS = ("errored", "canceled", "expired")
_WHEN = "2026-01-01T00:00:00Z"
_SPEECHES: dict[str, Any] = {"/v1/chat/completions": chat, "/v1/responses": responses}


@dataclass(slots=True)
class _Job:
    """A batch or a background response: what its end brings, and how often somebody asked for it."""

    results: Lines
    used: list[dict[str, Any] | None]
    named: dict[str, Any] = field(default_factory=dict)
    asked: int = 0
    cancelled: bool = False


class Later:
    """Jobs, by the ids that the provider gave them.

    Attributes:
        polls: How many GETs of a job are told that it is still going on, before it is done.
        in_sum: Whether a batch of OpenAI's says what its requests used in sum.
    """

    def __init__(self, usual: int) -> None:
        self.polls = 0
        self.in_sum = True
        self._usual = usual
        self._jobs: dict[str, _Job] = {}
        self._files: dict[str, bytes] = {}

    def billed(self, name: str) -> list[dict[str, Any]]:
        """Return what a provider bills for a job: the usage blocks of its answers."""
        return [used for used in self._job(name).used if used is not None]

    def answer(self, request: Request, reply: Reply, id: str) -> Answered:
        """Return the answer to a request that has to do with jobs: a body, lines, or events; None to all others.

        Raises:
            Rejected: The request, or the job it names, is not what it must be.
        """
        for method, path, name in _ROUTES:
            found = path.fullmatch(request.path) if method == request.method else None
            if found is not None:
                try:
                    answer: Answered = getattr(self, name)(request, reply, *found.groups(), id)
                except (KeyError, TypeError, ValueError):
                    raise Rejected(400, f"the body of {request.path} cannot be read") from None
                return answer
        return None

    # Anthropic.

    def _messages(self, request: Request, reply: Reply, id: str) -> dict[str, Any]:
        results, bills, body = [], [], request.json
        for number, one in enumerate(body["requests"]):
            fate = _fate(one["custom_id"])
            result: dict[str, Any] = {"type": fate}
            used = None
            if fate == "succeeded":
                turn = messages.decide(one["params"], reply, self._usual, f"{id}_{number}")
                used = {**messages.usage(turn), "service_tier": "batch"}
                message = messages.whole(turn)
                result["message"] = {**message, "usage": used} if "usage" in message else message
            elif fate == "errored":
                result["error"] = messages.error(400, "this one was to fail", f"req_{id}")
            bills.append(used)
            results.append({"custom_id": one["custom_id"], "result": result})
        name = f"msgbatch_{id}"
        self._jobs[name] = _Job(results, bills)
        return self._told(name, "in_progress")

    def _message_batch(self, request: Request, reply: Reply, name: str, more: str, id: str) -> Any:
        if more == "/results":
            return self._job(name).results
        if more == "/cancel":
            self._cancel(name)
        ended = self._is_done(name)
        return self._told(name, "ended" if ended else "in_progress", f"http://{request.headers['host']}")

    def _told(self, name: str, status: str, host: str = "") -> dict[str, Any]:
        job, ended = self._job(name), status == "ended"
        kinds = [line["result"]["type"] for line in job.results]
        counts = {kind: kinds.count(kind) if ended else 0 for kind in ("succeeded", *_FAILS)}
        return {
            "id": name, "type": "message_batch", "processing_status": status,
            "request_counts": {"processing": 0 if ended else len(kinds), **counts},
            "ended_at": _WHEN if ended else None, "created_at": _WHEN, "expires_at": _WHEN, "archived_at": None,
            "cancel_initiated_at": _WHEN if job.cancelled else None,
            "results_url": f"{host}/v1/messages/batches/{name}/results" if ended else None,
        }  # fmt: skip

    # OpenAI.

    def _upload(self, request: Request, reply: Reply, id: str) -> dict[str, Any]:
        boundary = request.headers["content-type"].partition("boundary=")[2].strip('"').encode()
        fields = {}
        for part in request.body.split(b"--" + boundary)[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            fields[head.partition(b'name="')[2].partition(b'"')[0]] = content.removesuffix(b"\r\n")
        name = f"file-{id}"
        self._files[name] = fields[b"file"]
        return {
            "id": name, "object": "file", "bytes": len(fields[b"file"]), "created_at": 0, "filename": "batch.jsonl",
            "purpose": fields[b"purpose"].decode(), "status": "processed",
        }  # fmt: skip

    def _content(self, request: Request, reply: Reply, name: str, id: str) -> Lines:
        return [json.loads(line) for line in self._files[name].splitlines()]

    def _batch_of(self, request: Request, reply: Reply, id: str) -> dict[str, Any]:
        results, bills, body = [], [], request.json
        for number, line in enumerate(self._files[body["input_file_id"]].splitlines()):
            one = json.loads(line)
            fate = _fate(one["custom_id"])
            found: dict[str, Any] = {"id": f"br_{number}", "custom_id": one["custom_id"], "response": None}
            used = None
            if fate == "succeeded":
                answer, used = self._line(one, reply, f"{id}_{number}")
                found["response"] = {"status_code": 200, "request_id": f"req_{number}", "body": answer}
            bills.append(used)
            results.append({**found, "error": None if fate == "succeeded" else {"code": fate, "message": "no"}})
        name = f"batch_{id}"
        self._jobs[name] = _Job(results, bills, {"input_file_id": body["input_file_id"], "endpoint": body["endpoint"]})
        return self._shown(name, "validating")

    def _line(self, request: Mapping[str, Any], reply: Reply, id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        if request["url"] == "/v1/embeddings":
            return responses.embeddings(request["body"], reply)
        speech = _SPEECHES[request["url"]]
        turn = speech.decide(request["body"], reply, self._usual, id)
        return speech.whole(turn), speech.usage(turn)

    def _batch(self, request: Request, reply: Reply, name: str, more: str, id: str) -> dict[str, Any]:
        if more:
            self._cancel(name)
        done = self._is_done(name)
        return self._shown(name, "cancelled" if self._job(name).cancelled else "completed" if done else "in_progress")

    def _shown(self, name: str, status: str) -> dict[str, Any]:
        job, done, files = self._job(name), status in ("completed", "cancelled"), {}
        good = [line for line in job.results if line["response"]]
        bad = [line for line in job.results if not line["response"]]
        counts = {"total": len(job.results), "completed": len(good), "failed": len(bad)}
        for kind, lines in (("output", good), ("error", bad)) if done else ():
            file = f"file-{kind}-{name}"
            self._files[file] = "\n".join(map(json.dumps, lines)).encode()
            files[f"{kind}_file_id"] = file if lines else None
        return {
            "id": name, "object": "batch", "endpoint": job.named["endpoint"], "completion_window": "24h",
            "created_at": 0, "input_file_id": job.named["input_file_id"], "status": status, **files,
            "request_counts": counts if done else {**counts, "completed": 0, "failed": 0},
            "usage": self._sum(name) if done and self.in_sum else None,
        }  # fmt: skip

    def _sum(self, name: str) -> dict[str, Any]:
        told = {"input_tokens": 0, "output_tokens": 0}
        details = {"cached_tokens": 0, "reasoning_tokens": 0}
        for used in self.billed(name):
            told["input_tokens"] += used.get("input_tokens", used.get("prompt_tokens", 0))
            told["output_tokens"] += used.get("output_tokens", used.get("completion_tokens", 0))
            more = used.get("input_tokens_details") or used.get("prompt_tokens_details") or {}
            details["cached_tokens"] += more.get("cached_tokens", 0)
        return {
            **told, "total_tokens": sum(told.values()),
            "input_tokens_details": {"cached_tokens": details["cached_tokens"]},
            "output_tokens_details": {"reasoning_tokens": details["reasoning_tokens"]},
        }  # fmt: skip

    def _background(self, request: Request, reply: Reply, id: str) -> dict[str, Any] | None:
        body = request.json
        if not body.get("background"):
            return None
        turn = responses.decide(body, reply, self._usual, id)
        name, used = f"resp_{id}", responses.usage(turn)
        self._jobs[name] = _Job([], [used], {"turn": turn})
        if body.get("stream"):
            return None  # it is streamed as any other
        return {**responses.whole(turn), "status": "queued", "output": [], "usage": None, "background": True}

    def _response(self, request: Request, reply: Reply, name: str, more: str, id: str) -> dict[str, Any] | bytes:
        turn = self._job(name).named["turn"]
        if more:
            self._cancel(name)
        elif "stream=true" in request.query:
            return b"".join(responses.events(turn))
        whole = {**responses.whole(turn), "background": True}
        if self._job(name).cancelled:
            return {**whole, "status": "cancelled", "output": [], "usage": None}
        return whole if self._is_done(name) else {**whole, "status": "in_progress", "output": [], "usage": None}

    # All.

    def _job(self, name: str) -> _Job:
        if name not in self._jobs:
            raise Rejected(404, f"there is no {name} here")
        return self._jobs[name]

    def _is_done(self, name: str) -> bool:
        job = self._job(name)
        job.asked += 1
        return job.cancelled or job.asked > self.polls

    def _cancel(self, name: str) -> None:
        job = self._job(name)
        if job.asked > self.polls:
            return
        job.cancelled = True
        for number, line in enumerate(job.results):
            if not line["custom_id"].startswith("done"):
                line.update({"result": {"type": "canceled"}} if "result" in line else {"response": None})
                job.used[number] = None


_ROUTES = tuple(
    (method, re.compile(path), name)
    for method, path, name in (
        ("POST", "/v1/messages/batches", "_messages"),
        ("GET", "/v1/messages/batches/([^/]+)(/results|)", "_message_batch"),
        ("POST", "/v1/messages/batches/([^/]+)(/cancel)", "_message_batch"),
        ("POST", "/v1/files", "_upload"),
        ("GET", "/v1/files/([^/]+)/content", "_content"),
        ("POST", "/v1/batches", "_batch_of"),
        ("GET", "/v1/batches/([^/]+)()", "_batch"),
        ("POST", "/v1/batches/([^/]+)(/cancel)", "_batch"),
        ("POST", "/v1/responses", "_background"),
        ("GET", "/v1/responses/([^/]+)()", "_response"),
        ("POST", "/v1/responses/([^/]+)(/cancel)", "_response"),
    )
)


def _fate(custom_id: str) -> str:
    return next((fail for fail in _FAILS if custom_id.startswith(fail)), "succeeded")
