"""Spans: one for each answered request, by OTLP, if an endpoint is set (`OTEL_EXPORTER_OTLP_ENDPOINT`).

OpenTelemetry's standard variables say where to, how often, and which share (`OTEL_EXPORTER_OTLP_*`, `OTEL_BSP_*`,
`OTEL_TRACES_SAMPLER`); the cluster's processes have what they were when it started. The protocol is http/protobuf. A
request with a `traceparent` header (W3C Trace Context) continues the caller's trace. Names are those of the semantic
conventions for generative AI; what was said is never in a span, nor who asked.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cluster.records import Record
from cluster.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
OPERATIONS = {"/v1/completions": "text_completion"}
"""`gen_ai.operation.name` by path; everything else is `chat`."""
REQUESTED = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
}
"""Attribute by parameter of the request's body, where both are numbers."""


def wanted() -> bool:
    return any(os.environ.get(name) for name in ENDPOINTS)


class Spans:
    """Makes spans; OpenTelemetry's batch processor sends them, in a thread of its own. Nothing waits for a receiver."""

    def __init__(self) -> None:
        # Not before somebody wants spans: these imports take 0.4 s.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create()
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "trivium"}))
        # Never made the process's global provider: that would export what vLLM and MLflow trace, contents included.
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("trivium")
        here = Settings.from_environment()
        self._server: dict[str, Any] = {"server.address": here.node_ip, "server.port": here.http_port}

    def answered(self, record: Record, traceparent: bytes | None) -> None:
        """Export an answer as a span of the server's, which began when the request came."""
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carried = {"traceparent": traceparent.decode("latin-1")} if traceparent else {}
        given = attributes(record)
        span: Span = self._tracer.start_span(
            f"{given['gen_ai.operation.name']} {given['gen_ai.request.model']}",
            context=TraceContextTextMapPropagator().extract(carried),
            kind=SpanKind.SERVER,
            attributes=self._server | given,
            start_time=_ns(record.time),
        )
        if record.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(_ns(record.time + record.latency_s))

    def flush(self) -> None:
        self._provider.force_flush()


def attributes(record: Record) -> dict[str, Any]:
    """What a span says of an answer: numbers and names, no content.

    `gen_ai.*`: https://github.com/open-telemetry/semantic-conventions-genai; the rest: OpenTelemetry's for HTTP and
    errors, and `trivium.*` for what only we have.
    """
    said: dict[str, Any] = {
        "gen_ai.operation.name": OPERATIONS.get(record.endpoint, "chat"),
        "gen_ai.provider.name": "trivium",
        "gen_ai.request.model": record.alias or record.version,
        "gen_ai.request.stream": record.streamed,
        "gen_ai.response.id": record.request_id,
        "gen_ai.response.model": record.version,
        "gen_ai.response.finish_reasons": [record.finish_reason] if record.finish_reason else None,
        "gen_ai.response.time_to_first_chunk": record.ttft_s,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "error.type": str(record.status) if record.status >= 400 else "disconnected" if record.disconnected else None,
        "http.response.status_code": record.status,
        "url.path": record.endpoint,
        "trivium.alias": record.alias,
        "trivium.version": record.version,
        "trivium.arm": record.arm,
    }
    for parameter, attribute in REQUESTED.items():
        value = record.sampling.get(parameter)
        # A refused request may have said anything; an integer beyond OTLP's 64 bits would cost its whole batch.
        if isinstance(value, int | float) and abs(value) < 2**63:
            said[attribute] = value
    return {name: value for name, value in said.items() if value is not None}


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
