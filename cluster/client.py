"""The cluster's own HTTP API as the command line and the pipelines use it: with a key, and errors as one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

from cluster.records import Decision, Verdict
from cluster.settings import Settings

if TYPE_CHECKING:
    import httpx

DECIDE_S = 180.0
"""Longest wait for a decision: a replica that was just killed takes a minute to come back and acknowledge."""
HOST_S = 3600.0
"""Longest that an engine may be given to start (`host_s` of the rollout's settings, services/canary.py): a decision
about a version with weights of its own waits for that too."""


class Client:
    """A thin client of the public port. Every error that a user can mend is a `ValueError` with the fix in it."""

    def __init__(self, settings: Settings, key: str | None = None, timeout_s: float = 30.0) -> None:
        import httpx

        self._address = f"http://127.0.0.1:{settings.http_port}"
        self._http = httpx.Client(
            base_url=self._address,
            headers={"authorization": f"Bearer {key or find_key(settings)}"},
            timeout=timeout_s,
            # The cluster is on this machine: a company's proxy in the environment must not see the key.
            trust_env=False,
        )

    def get(self, path: str) -> Any:
        return self._answer("GET", path)

    def post(self, path: str, body: dict[str, Any] | None = None, timeout_s: float | None = None) -> Any:
        return self._answer("POST", path, json=body or {}, **({"timeout": timeout_s} if timeout_s else {}))

    def events(self, path: str) -> Iterator[dict[str, Any]]:
        """The data of server-sent events, as they come, until the stream ends."""
        import httpx

        try:
            # A comment comes every 15 s: what is silent for longer is dead.
            with self._http.stream("GET", path, timeout=httpx.Timeout(30, read=60)) as response:
                if not response.is_success:
                    response.read()
                    raise ValueError(self._complaint(response, path))
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        yield json.loads(line.removeprefix("data: "))
        except httpx.ConnectError:
            raise ValueError(f"no cluster answers at {self._address}; start it with `trivium up`") from None
        except httpx.TransportError as error:
            raise ValueError(f"{self._address}{path} broke off ({error}); ask again to go on") from None

    def rollout(self) -> dict[str, Any]:
        """Aliases as the decision log has them, and which replica holds which versions."""
        return self.get("/admin/rollout")

    def create(self, alias: str, base: str) -> Decision:
        """Make an alias that serves `base`; nothing changes if it does already."""
        return self._decide("create", {"alias": alias, "base": base})

    def stage(self, alias: str, version: str, reason: str) -> Decision:
        """Have every replica hold a version beside the champion, to be called as `alias@candidate`."""
        return self._decide("stage", {"alias": alias, "version": version, "reason": reason})

    def publish(self, alias: str, version: str, reason: str, verdict: Verdict | None = None) -> Decision:
        """Hand an accepted candidate on: to a canary, or to everybody, as services/serve.yaml says."""
        return self._decide("publish", _order(alias, version, reason, verdict))

    def canary(
        self, alias: str, version: str, reason: str, share: float | None = None, shadow: bool = False
    ) -> Decision:
        """Have a version answer a share of the sessions (or all of that share unseen) until its worth is proven."""
        order = {**_order(alias, version, reason, None), "shadow": shadow, **({"share": share} if share else {})}
        return self._decide("canary", order)

    def promote(self, alias: str, version: str, reason: str, verdict: Verdict | None = None) -> Decision:
        """Make a version the champion. Returns when every replica answers with it."""
        return self._decide("promote", _order(alias, version, reason, verdict))

    def reject(self, alias: str, version: str, reason: str, verdict: Verdict | None = None) -> Decision:
        """Let a staged version go."""
        return self._decide("reject", _order(alias, version, reason, verdict))

    def rollback(self, alias: str, reason: str, version: str | None = None) -> Decision:
        """Return to the former champion; if `version` is given, only if that is the former champion."""
        order = {"alias": alias, "reason": reason, **({"version": version} if version else {})}
        return self._decide("rollback", order)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decide(self, action: str, order: dict[str, Any]) -> Decision:
        patience_s = DECIDE_S + (0 if action in ("create", "reject") else HOST_S)
        return Decision.model_validate(self.post(f"/admin/rollout/{action}", order, timeout_s=patience_s))

    def _answer(self, method: str, path: str, **options: Any) -> Any:
        import httpx

        try:
            response = self._http.request(method, path, **options)
        except httpx.ConnectError:
            raise ValueError(f"no cluster answers at {self._address}; start it with `trivium up`") from None
        except httpx.TimeoutException:
            raise ValueError(f"{self._address}{path} did not answer in time; `trivium status` shows why") from None
        except httpx.TransportError as error:
            raise ValueError(f"{self._address}{path} broke off ({error}); `trivium status` shows why") from None
        if response.is_success:
            return response.json()
        raise ValueError(self._complaint(response, path))

    def _complaint(self, response: httpx.Response, path: str) -> str:
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            # Serve's own plain-text 404, 500 and 503, while an application is not there or restarts.
            said = response.text.strip().splitlines()[:1]
            where = f"{self._address}{path} answered {response.status_code}"
            return f"{where} ({said[0][:200] if said else 'nothing'}); see `trivium status` or run `trivium up`"
        if response.status_code == 401:
            return f'{message}; the key is that of another state folder, or none: run eval "$(trivium env)"'
        return message


def find_key(settings: Settings) -> str:
    """The key of this user: `OPENAI_API_KEY` if it is one of ours, else the one that `up` made under state."""
    given = os.environ.get("OPENAI_API_KEY", "")
    if given.startswith("sk-trivium-"):  # never send somebody's OpenAI key anywhere else
        return given
    path = settings.state / "secrets" / "api_key"
    try:
        return path.read_text().strip()
    except OSError:
        raise ValueError(
            f"there is no API key at {path}; run `trivium up`, or point TRIVIUM_STATE at the cluster's state folder"
        ) from None


def _order(alias: str, version: str, reason: str, verdict: Verdict | None) -> dict[str, Any]:
    order = {"alias": alias, "version": version, "reason": reason}
    return {**order, **({"verdict": verdict.model_dump(mode="json")} if verdict else {})}
