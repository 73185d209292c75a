"""The OpenAI SDK with OpenTelemetry's and OpenInference's instrumentation, against a local model server, into the tables."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from metamon_assets_tests.traces.test_receiver import select
from metamon_assets_tests.web.conftest import Web

MODEL, ANSWERING = "gpt-4o-mini", "gpt-4o-mini-2024-07-18"
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100, "prompt_tokens_details": {"cached_tokens": 400}}
# What each tells of the 400 cached tokens, and 600 to 1,000 tokens at $0.15, 400 at $0.075 and 100 at $0.60 a million.
CONVENTIONS = {"opentelemetry": (None, Decimal("0.00021")), "openinference": (400, Decimal("0.00018"))}
QUESTION: Any = [{"role": "user", "content": "How do I return my order?"}]


class Model(BaseHTTPRequestHandler):
    """Chat completions in the shape of the OpenAI API; the model named ``busy`` has too much to do."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        base = {"id": "chatcmpl-1", "created": 1_790_000_000, "model": ANSWERING}
        if asked["model"] == "busy":
            self._answer(429, {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}})
        elif asked.get("stream"):
            parts: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, {"content": "Within "}, {"content": "30 days."}]
            chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": part, "finish_reason": None}]} for part in parts]
            chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": USAGE}]
            said = [f"data: {json.dumps(base | {'object': 'chat.completion.chunk'} | chunk)}\n\n" for chunk in chunks]
            self._send(200, "text/event-stream", "".join([*said, "data: [DONE]\n\n"]).encode())
        else:
            reply = {"role": "assistant", "content": "Within 30 days.", "refusal": None}
            choice = {"index": 0, "message": reply, "finish_reason": "stop", "logprobs": None}
            self._answer(200, base | {"object": "chat.completion", "choices": [choice], "usage": USAGE})

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _send(self, status: int, content_type: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def model() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join(30)
    server.server_close()


def instrumentor(convention: str) -> Any:
    if convention == "opentelemetry":
        from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor as OfOpenTelemetry

        return OfOpenTelemetry()
    from openinference.instrumentation.openai import OpenAIInstrumentor as OfOpenInference

    return OfOpenInference()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_calls_of_the_openai_sdk_arrive_with_agent_model_tokens_cost_and_error(
    convention: str, web: Web, database: str, model: str
) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": "helpdesk", "service.version": "3"}))
    exporter = OTLPSpanExporter(f"{web.url}/v1/traces", headers={"authorization": f"Bearer {web.token('ingest')}"}, timeout=60)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    patched = instrumentor(convention)
    patched.instrument(tracer_provider=provider)
    try:
        with openai.OpenAI(base_url=model, api_key="none", max_retries=0) as client:
            ask(client, provider)
    finally:
        patched.uninstrument()
        provider.shutdown()
    roots = select(
        database,
        "SELECT name, agent_name, agent_version, user_id, status, input_tokens, output_tokens, cache_read_input_tokens, total_cost,"
        " llm_calls, latency_seconds BETWEEN 0 AND 30 FROM analytics.traces ORDER BY name",
    )
    same = ("support", "3", "u1")
    assert roots == [
        ("asked", *same, "success", 1000, 100, *CONVENTIONS[convention], 1, True),
        ("failed", *same, "success", None, None, None, None, 1, True),  # the agent caught it
        ("streamed", *same, "success", 1000, 100, *CONVENTIONS[convention], 1, True),
    ]
    calls = select(
        database,
        "SELECT t.name, s.run_type, s.status, s.error_type, s.provider, s.request_model, s.response_model, s.total_tokens, s.cost_source"
        " FROM analytics.spans s JOIN analytics.traces t USING (source, trace_id) ORDER BY t.name",
    )
    answered = ("llm", "success", None, "openai", MODEL, ANSWERING, 1100, "computed")
    assert calls == [
        ("asked", *answered),
        ("failed", "llm", "error", "RateLimitError", "openai", "busy", None, None, "unpriced"),
        ("streamed", *answered),
    ]
    (messages,) = select(database, "SELECT string_agg(error_message, '') FROM metamon.spans")[0]
    assert "Rate limit reached" in messages


def ask(client: openai.OpenAI, provider: TracerProvider) -> None:
    """What an agent would do: one call answered at once, one streamed, one that fails."""
    tracer = provider.get_tracer("agent")
    about = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "support", "user.id": "u1"}
    with tracer.start_as_current_span("asked", attributes=about):
        client.chat.completions.create(model=MODEL, messages=QUESTION)
    with tracer.start_as_current_span("streamed", attributes=about):
        options: Any = {"include_usage": True}
        stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True, stream_options=options)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "Within 30 days."
    with tracer.start_as_current_span("failed", attributes=about), pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="busy", messages=QUESTION)
