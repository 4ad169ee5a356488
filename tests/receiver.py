"""An OpenTelemetry collector of the tests' own: takes spans by OTLP (http/protobuf) on loopback, and keeps them."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    name: str
    trace: str
    """Hexadecimal, as in a `traceparent` header."""
    parent: str
    kind: int
    failed: bool
    begin_s: float
    end_s: float
    attributes: dict[str, Any]
    resource: dict[str, Any]


@dataclass
class Receiver:
    """Listens from `start` to `stop`."""

    spans: list[Span] = field(default_factory=list)
    received: bytes = b""
    """Everything that was sent to it, whatever it was."""
    paths: set[str] = field(default_factory=set)
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self._server
        return f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> Receiver:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.take(self.path, gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body)
                self.send_response(200)
                self.send_header("content-length", "0")  # an empty answer is an ExportTraceServiceResponse
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        assert self._server
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, body: bytes) -> None:
        self.paths.add(path)
        self.received += body
        if path == "/v1/traces":
            for one in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = _values(one.resource.attributes)
                self.spans += [_span(span, resource) for scope in one.scope_spans for span in scope.spans]


def _span(span: Any, resource: dict[str, Any]) -> Span:
    return Span(
        name=span.name,
        trace=span.trace_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=span.kind,
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        begin_s=span.start_time_unix_nano / 1e9,
        end_s=span.end_time_unix_nano / 1e9,
        attributes=_values(span.attributes),
        resource=resource,
    )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    given = getattr(value, kind)
    return [_value(each) for each in given.values] if kind == "array_value" else given
