# ruff: noqa: E501
"""Tools made of parts: a verb, a noun and attributes with their cues; and drills, whose every word is invented.

Hand-written domains teach meaning; these teach the rule behind it: a parameter's words, or a cue such as "from", say which
span of the request is its value, whatever the span is. Nothing but copying solves a drill, so copying forms early.
"""

from __future__ import annotations

import random

from pipelines.seed.domains import Param, Tool
from pipelines.seed.words import COMMON, SCHEMA, pseudo, word

# fmt: off
VERBS = {
    "create": "make|set up|start", "make": "create|build", "add": "put in|enter", "remove": "delete|take out|drop",
    "delete": "remove|erase|get rid of", "update": "change|edit", "find": "search|look for",
    "get": "fetch|show me|give me", "list": "show|show all", "book": "reserve", "order": "buy|get",
    "buy": "order|purchase", "sell": "offer", "send": "mail|ship|forward", "share": "send", "open": "unlock",
    "close": "shut|lock", "check": "verify|look at", "start": "begin|launch|run", "stop": "end|halt",
    "cancel": "call off|drop", "move": "shift|bring", "copy": "duplicate", "print": "put out", "assign": "give|hand",
    "invite": "ask", "rent": "hire", "repair": "fix", "clean": "wash", "paint": "colour", "measure": "weigh",
    "compare": "match", "record": "log|note|write down", "report": "tell us about", "plan": "prepare|organize",
    "deliver": "bring|take", "pick": "choose|select", "mix": "blend", "register": "sign up|enroll", "scan": "read",
    "install": "mount", "replace": "swap|exchange", "test": "try", "approve": "accept|confirm",
    "reject": "refuse|turn down", "review": "look over", "rate": "score|grade", "feed": "give food to",
    "train": "coach", "park": "leave",
}
NOUNS = """
report invoice parcel garden boat horse machine engine room desk chair shelf lamp printer server account order
ticket course lesson patient vehicle bicycle battery window fence recipe cake poster banner photo sample crate
barrel container shipment contract lease permit badge key visit tour party concert race match team player
coach student class exam project task sprint budget claim policy quote offer coupon voucher gift basket bottle
coat shirt shoe hat ring watch stone tile carpet sofa bed tent camera drone robot sensor pump valve filter
pipe tank field crop tree flower animal cow sheep hive nest pond bridge road tunnel tower flag statue mask
costume stage play speech letter stamp envelope magazine novel poem map chart table record file folder backup
cluster job queue topic channel device router socket cable panel meter bill
""".split()  # noqa: SIM905

ATTRIBUTES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("color|colour|shade|paint", "colour", (" in {v}", " coloured {v}", " in the colour {v}", ", {v} one")),
    ("name|title|label|called", "title", (" called {v}", " named {v}", " titled {v}", " with the name {v}", " {v}")),
    ("origin|from|source|start_place", "city", (" from {v}", " starting in {v}", " out of {v}")),
    ("destination|to|target|end_place", "city", (" to {v}", " going to {v}", " bound for {v}", " towards {v}")),
    ("city|town|location|place|where", "city", (" in {v}", " at {v}", " near {v}", " located in {v}")),
    ("country|nation|land", "country", (" in {v}", " from {v}", " made in {v}")),
    ("owner|belongs_to|holder", "person", (" of {v}", " owned by {v}", " belonging to {v}", " that {v} owns")),
    ("author|creator|made_by|by", "person", (" by {v}", " made by {v}", " written by {v}", " from the hand of {v}")),
    ("recipient|for|customer|beneficiary", "person", (" for {v}", " on behalf of {v}", " meant for {v}")),
    ("assignee|with|partner|helper", "person", (" with {v}", " together with {v}", " and let {v} help")),
    ("date|day|when|due|on_date", "date", (" on {v}", " for {v}", " due {v}", " {v}")),
    ("time|at_time|hour", "clock", (" at {v}", " around {v}", " {v}")),
    ("period|when|time_span|moment", "when", (" {v}", " for {v}", ", {v}")),
    ("quantity|count|amount|number", "number", (" {v} times", " in a quantity of {v}", ", {v} of them", " x {v}")),
    ("price|max_price|budget|cost|limit", "money", (" for {v}", " under {v}", " that costs {v}", " at a price of {v}", " up to {v}")),
    ("code|id|reference|serial|sku", "code", (" {v}", " with id {v}", " number {v}", " code {v}", " ref {v}")),
    ("note|comment|remark|message", "sentence", (" and say {v}", " with the note {v}", ": {v}", " saying {v}")),
    ("reason|purpose|topic|about", "phrase", (" because of {v}", " about {v}", " regarding {v}", " to do with {v}", " on the topic of {v}")),
    ("category|kind|type|genre", "word", (" of type {v}", " of the {v} kind", " in category {v}", ", the {v} type")),
    ("address|street|drop_point", "address", (" at {v}", " to {v}", " at the address {v}")),
    ("email|contact|mail", "email", (" to {v}", " at {v}", " via {v}", " and mail {v}")),
    ("size|width|length|weight|height", "number", (" of size {v}", " {v} wide", " sized {v}", " with {v} as measure")),
    ("shop|store|vendor|seller|company", "house", (" from {v}", " at {v}", " sold by {v}", " by {v}")),
    ("place|landmark|site|venue", "place", (" at {v}", " near {v}", " close to {v}", " by {v}", " in {v}")),
    ("material|made_of|fabric", "word", (" made of {v}", " out of {v}", " in {v}")),
    ("priority|level|grade", "prio", (" with {v} priority", " as {v}", " marked {v}")),
    ("rank|order|sort|quality", "sort", (", the {v} one", " sorted by {v}", " that is {v}")),
    ("brand|model|make", "pseudo", (" by {v}", " of the brand {v}", " model {v}", " {v}")),
    ("keywords|query|search|text", "phrase", (" {v}", " with {v}", " matching {v}", " containing {v}", " about {v}")),
    ("list|folder|group|collection", "collection", (" to {v}", " in {v}", " into the list {v}", " from my {v}", " under {v}")),
)
# fmt: on


def composed(rng: random.Random) -> Tool:
    """A verb, a noun, 1 to 5 attributes; two attributes never share a cue, so that the request has one reading."""
    verb, noun = rng.choice(sorted(VERBS)), rng.choice(NOUNS)
    params: list[Param] = []
    parts: list[str] = []
    seen: set[str] = set()
    for index, (names, kind, cues) in enumerate(rng.sample(ATTRIBUTES, rng.randint(1, 5))):
        free = [c for c in cues if c not in seen]
        name = rng.choice(names.split("|"))
        if not free or any(name in p.names for p in params):
            continue
        seen.update(cues)
        mine = [*rng.sample(free, min(len(free), 3)), f" with {name.replace('_', ' ')} {{v}}"]
        slot = f"s{index}"
        parts.append(("[" if rng.random() < 0.6 else "") + "(" + "|".join(mine).replace("{v}", "{" + slot + "}") + ")")
        parts[-1] += "]" if parts[-1][0] == "[" else ""
        params.append(Param(slot, kind, (name,)))
    does = f"{verb}|{VERBS[verb]}"
    body = f"<{';'.join(parts)}>"
    patterns = [f"({does}) (a |the |my |this |){noun}{body}"]
    if rng.random() < 0.3:
        patterns.append(f"(i need to|we want to|let us|we have to) {verb} (a |the |one ){noun}{body}")
    order = rng.random()
    name = (
        f"{verb}_{noun}"
        if order < 0.7
        else f"{noun}_{verb}"
        if order < 0.9
        else f"{verb}_{noun}_{rng.choice(('item', 'now', 'api', 'record', 'v2', 'entry'))}"
    )
    return Tool((name,), tuple(params), tuple(patterns))


def coined(rng: random.Random) -> str:
    """A name out of one or two words, known or not."""
    pick = rng.choice((word, pseudo, pseudo, lambda r: r.choice(SCHEMA), lambda r: r.choice(COMMON)))
    return f"{pick(rng)}_{pick(rng)}" if rng.random() < 0.35 else pick(rng)


def drill(rng: random.Random) -> Tool:
    """An invented tool whose requests pair each parameter's name with its value in one of many ways."""
    name = coined(rng)
    names = list(dict.fromkeys(coined(rng) for _ in range(rng.choice((1, 1, 2, 2, 3, 3, 4, 5)))))
    kinds = ("scramble",) * 6 + (
        "title",
        "person",
        "phrase",
        "city",
        "code",
        "when",
        "number",
        "word",
        "pseudo",
        "collection",
    )
    params = tuple(Param(f"s{i}", rng.choice(kinds), (n,)) for i, n in enumerate(names))
    say = name.replace("_", " ")
    if len(params) == 1 and rng.random() < 0.5:
        v = "{s0}"
        return Tool(
            (name,),
            params,
            (
                f"({say}|{say}:|{say} the|{say} this:|please {say}|can you {say}) {v}",
                f"{v} (is to {say}|for {say}|, {say}|goes to {say}|{say})",
            ),
        )
    styles = (
        ("{n} {v}", ", "),
        ("{n}: {v}", ", "),
        ("{n} = {v}", " , "),
        ("{n} is {v}", " and "),
        ("{v} as {n}", ", "),
        ("{n} set to {v}", " and "),
        ("{v} for {n}", ", "),
        ("the {n} {v}", " and "),
        ("{n} should be {v}", ", "),
        ("with {n} {v}", " "),
        ("{v} is the {n}", ", "),
        ("{v} ({n})", " "),
        ('{n} "{v}"', " "),
        ("{n} to {v}", " "),
    )
    patterns = []
    for style, comma in rng.sample(styles, 3):
        parts = [
            style.replace("(", "\1")
            .replace(")", "\2")
            .replace("{n}", p.names[0].replace("_", " "))
            .replace("{v}", "{" + p.slot + "}")
            + comma
            for p in params
        ]
        body = ";".join(f"[{part}]" if i and rng.random() < 0.4 else part for i, part in enumerate(parts))
        patterns.append(f"({say}|{say} with|{say}:|{say},|do {say}|run {say} with|please {say}) <{body}>")
    return Tool((name,), params, tuple(patterns))
