# ruff: noqa: E501
"""Domains that pre-training never sees: in-house tools whose names say little, as the demo's default traffic.

The seed model has to be taught these by feedback: it can copy, but that `hv4.x1` is who tends a hive, it cannot know.
"""

from __future__ import annotations

import random

from pipelines.seed.domains import Tool, tool
from pipelines.seed.words import FAMILY, GIVEN

HOUSE: tuple[Tool, ...] = (
    tool("apx_mv", "row:code=k1 who:person=k2 when:date=k3",
         "(shift|relocate|resettle) (colony|apiary colony) {row}[ (under|to the care of) {who}][ {when}]", "{who} (tends|looks after) colony {row}[ {when}]", "(let|have) {who} tend colony {row}"),
    tool("BRTH7", "vessel:title=vx pier:few=sl when:when=tq",
         "(moor|berth) {vessel} at quay {pier}[ {when}]", "quay {pier} (goes to|is for) {vessel}[ {when}]", "{vessel} (berths|docks|moors) {when}[ at quay {pier}]"),
    tool("kf_prog", "glaze:colour=g0 heat:number=g1 piece:phrase=g2",
         "(fire|kiln) {piece} at {heat}[ with (a|the) {glaze} glaze]", "(glaze|coat) {piece} (in|with) {glaze}[ and fire it at {heat}]", "kiln to {heat}[ for {piece}]"),
    tool("Xcav2", "find:phrase=bq layer:few=lz by:person=ag",
         "(catalogue|enter) fossil {find}[ from stratum {layer}][ (unearthed|dug up) by {by}]", "{by} (unearthed|dug up) {find}[ in stratum {layer}]", "stratum {layer} held {find}"),
    tool("wv_ord9", "yarn:colour=y_a cloth:phrase=y_b client:person=y_c",
         "(weave|loom) {cloth} in {yarn}[ yarn][ for {client}]", "{client} (wants|ordered) {cloth} woven[ in {yarn}]", "loom work for {client}: {cloth}[, {yarn} yarn]"),
    tool("CSK_lg", "wine:title=w1 cask:code=w2 score:few=w3",
         "(decant|rack) {wine} into cask {cask}", "cask {cask} (holds|now has) {wine}[, acidity {score}]", "(note|measured) acidity {score} (in|for) cask {cask}"),
)  # fmt: skip
MARKS = frozenset(
    "colony apiary quay moor berth kiln glaze fossil stratum unearthed weave woven loom cask acidity decant".split()  # noqa: SIM905
)
"""Words of these domains, none of which pre-training text may contain."""

TRAITS = "silver golden old northern quiet bright broken winter early lucky iron little western salty green".split()  # noqa: SIM905
THINGS = "bowl plate heron star river lantern scarf blanket shell tooth curtain harbour arrow garden jug".split()  # noqa: SIM905
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "grey", "purple", "dark blue", "pale yellow")
WHEN = (
    "today",
    "tomorrow",
    "tomorrow morning",
    "on Monday",
    "on Friday",
    "next week",
    "this evening",
    "at noon",
    "in May",
    "at 5 pm",
)


def plain(kind: str, rng: random.Random) -> str:
    """A value as the people of one house would say it: ordinary words, where pre-training also invents them."""
    match kind:
        case "person":
            return f"{rng.choice(GIVEN)} {rng.choice(FAMILY)}"
        case "title":
            return f"{rng.choice(TRAITS)} {rng.choice(THINGS)}".title()
        case "phrase":
            return f"{rng.choice(TRAITS)} {rng.choice(THINGS)}"
        case "colour":
            return rng.choice(COLOURS)
        case "when" | "date":
            return rng.choice(WHEN)
        case "code":
            return f"{rng.choice('ABKR')}{rng.randint(10, 99)}"
        case "few":
            return str(rng.randint(1, 20))
        case "number":
            return str(10 * rng.randint(60, 130))
    raise AssertionError(f"no plain value for {kind!r}")
