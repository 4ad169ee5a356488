"""Take personal data and secrets out of conversations: a value becomes the same placeholder all through one row.

A model learns to copy arguments from the request. If the request says <EMAIL>, the target must say <EMAIL> too, so a
row is scrubbed as one: messages, tool calls and target share one table of placeholders. Two addresses in one row become
<EMAIL> and <EMAIL_2>.

The patterns are tight on purpose: a phone number needs separators, a country code or a word such as `call` before it;
a card number must pass Luhn's check (ISO/IEC 7812-1); a key must have an issuer's prefix or stand behind a name such as
`api_key=`. Of the 14,484 requests of SNIPS they change none. They find no people's names and no streets: that takes a
model (Presidio and the like), and belongs in front of the log where it is required.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from typing import Any

EMAIL = r"(?<![\w.+-])[A-Za-z0-9][\w.+%-]*@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w@-])"

CARD = r"(?<![\w.,+/-])[2-6]\d{3}(?:[ -]?\d){8,14}[0-9](?![\w/-])(?!\.\d)"

PHONE = "|".join(
    [
        # +49 30 1234567, +1 (415) 555-0100: a country code (ITU-T E.164 allows 15 digits in all)
        r"(?<![\w+])\+(?=(?:[ .()-]{0,2}\d){8})[1-9]\d{0,2}[ .-]?"
        r"(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}(?![\w-])",
        # (415) 555-0100, 415-555-0100, 415.555.0100, 1-800-555-0100: North America
        r"(?<![\w.+-])(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.-])\d{3}[.-]\d{4}(?![\w-])(?!\.\d)",
        # 030 1234567, 0171-2345678, 020 7946 0958, 06 12 34 56 78: a trunk zero, as no date is written
        r"(?<![\w.,:+/-])(?:0[1-9]\d{1,3}[ -]\d{6,8}|"
        r"0[1-9]\d{1,3}[ -]\d{3,4}[ -]\d{3,5}|0[1-9](?: \d{2}){4})(?![\w/-])(?!\.\d)",
        # call me on 5550100234: plain digits only behind a word that says what they are
        r"(?i:(?<=phone )|(?<=phone: )|(?<=phone number )|(?<=phone number is )|(?<=mobile )|(?<=mobile: )|"
        r"(?<=call )|(?<=call me on )|(?<=call me at )|(?<=tel )|(?<=tel: )|(?<=tel\. )|(?<=whatsapp )|(?<=number is ))"
        r"\d{9,13}(?!\w)",
    ]
)

KEY = "|".join(
    [
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        # Issuers' prefixes, as their own documentation gives them
        r"\b(?:sk|pk|rk)[-_](?:[A-Za-z0-9]+[-_])*[A-Za-z0-9_-]{20,}\b",
        r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{30,})\b",
        r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
        r"\bAIza[\w-]{35}(?!\w)",
        r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}\b",
        r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}",
        # password = hunter42!, "api_key": "0123abcd": a secret's name, an assignment, and a value with a digit in it
        r"(?i:\b(?:api[_-]?key|access[_-]?key|secret[_-]?key|secret|auth[_-]?token|access[_-]?token|password|passwd|pwd)\b"
        r"[\"']?\s*[:=]\s*[\"']?)(?P<value>(?=[^\s\"',;]*\d)[^\s\"',;]{8,})",
        r"(?i:\bbearer\s+)(?P<bearer>(?=[\w.~+/-]*\d)[\w.~+/-]{16,}=*)",
    ]
)

# Keys first: a key may hold what looks like an address or a number. Cards before phones: a card holds phone-like parts.
PATTERNS = {
    "key": re.compile(KEY, re.DOTALL),
    "email": re.compile(EMAIL),
    "card": re.compile(CARD),
    "phone": re.compile(PHONE),
}

# What a text holds if a pattern finds anything in it: most hold none of it, and are searched once for each instead.
SIGNS = {
    "key": re.compile(r"[-_:=]|AKIA|ASIA|AIza|eyJ|(?i:bearer)"),
    "email": re.compile("@"),
    "card": re.compile(r"\d"),
    "phone": re.compile(r"\d"),
}


class Scrubber:
    """The placeholders of one row."""

    def __init__(self, kinds: Iterable[str]) -> None:
        self._kinds = [kind for kind in PATTERNS if kind in set(kinds)]
        self._placeholders: dict[str, dict[str, str]] = {kind: {} for kind in self._kinds}

    @property
    def counts(self) -> dict[str, int]:
        """How many different values of each kind were replaced."""
        return {kind: len(found) for kind, found in self._placeholders.items() if found}

    def text(self, text: str) -> str:
        for kind in self._kinds:
            if SIGNS[kind].search(text):
                text = PATTERNS[kind].sub(functools.partial(self._replace, kind), text)
        return text

    def message(self, message: dict[str, Any]) -> dict[str, Any]:
        """A chat message with its content and its tool calls' arguments scrubbed; roles, names and ids stay."""
        out = dict(message)
        match out.get("content"):
            case str(content):
                out["content"] = self.text(content)
            case list(parts):
                out["content"] = [self._part(part) for part in parts]
        if calls := out.get("tool_calls"):
            out["tool_calls"] = [{**call, "function": self._function(call.get("function") or {})} for call in calls]
        return out

    def _part(self, part: Any) -> Any:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            return {**part, "text": self.text(part["text"])}
        return part

    def _function(self, function: dict[str, Any]) -> dict[str, Any]:
        try:
            arguments = json.loads(function.get("arguments") or "{}")
        except (json.JSONDecodeError, TypeError):
            return {**function, "arguments": self.text(str(function.get("arguments")))}
        return {**function, "arguments": json.dumps(self._value(arguments), ensure_ascii=False)}

    def _value(self, value: Any) -> Any:
        match value:
            case str():
                return self.text(value)
            case bool() | float() | None:
                return value
            case int():
                # A card number may come as a number; anything else that is numeric is left as it is.
                text = self.text(str(value))
                return value if text == str(value) else text
            case list():
                return [self._value(item) for item in value]
            case dict():
                return {key: self._value(item) for key, item in value.items()}
        return value

    def _replace(self, kind: str, match: re.Match[str]) -> str:
        whole = match.group()
        if kind == "card" and not luhn(whole):
            return whole
        groups = match.groupdict()
        secret = groups.get("value") or groups.get("bearer") or whole
        found = self._placeholders[kind]
        # +49 30 123 and +4930123 are one number: compare what is left without separators.
        same = (
            re.sub(r"[\s().-]", "", secret)
            if kind in ("card", "phone")
            else secret.lower()
            if kind == "email"
            else secret
        )
        if same not in found:
            found[same] = f"<{kind.upper()}>" if not found else f"<{kind.upper()}_{len(found) + 1}>"
        return whole.replace(secret, found[same])


def luhn(number: str) -> bool:
    """Whether the digits of a text pass Luhn's check, as every card number does (and one in ten of other numbers)."""
    digits = [int(character) for character in reversed(number) if character.isdigit()]
    doubled = [digit if place % 2 == 0 else digit * 2 - 9 * (digit > 4) for place, digit in enumerate(digits)]
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0
