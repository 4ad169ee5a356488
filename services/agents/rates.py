"""How often a principal called a tool of late. Pure: whoever asks brings the time."""

from __future__ import annotations

from collections import Counter, deque


class Rates:
    """Counts over a window, of one process. Costs memory for the calls of one window only."""

    def __init__(self, window_s: float = 60.0) -> None:
        self._window_s = window_s
        self._calls: deque[tuple[float, tuple[str, str]]] = deque()
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, principal: str, tool: str, now: float) -> int:
        """Calls noted within the window before `now`, seconds of a clock that never goes back."""
        while self._calls and self._calls[0][0] <= now - self._window_s:
            _, who = self._calls.popleft()
            self._counts[who] -= 1
            if not self._counts[who]:
                del self._counts[who]
        return self._counts[principal, tool]

    def note(self, principal: str, tool: str, now: float) -> None:
        self._calls.append((now, (principal, tool)))
        self._counts[principal, tool] += 1
