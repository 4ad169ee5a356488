"""Jobs for the shop's agent: templates, what each should lead to, and the checker that reads the shop's database. Pure,
and seeded, but for the checker's look."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from demo.shop import Item, Shop

Kind = Literal["order", "quote", "both"]


@dataclass(frozen=True)
class Template:
    """One way to put one kind of job."""

    name: str
    kind: Kind
    """`order`: look, then order or reject. `quote`: compute, then tell. `both`: a quote, then the order."""
    text: str


LEARNT = (
    Template("find-then", "order", "find {quantity} {item}, then order it for {customer}, otherwise reject it"),
    Template("find-if", "order", "find {quantity} {item} for {customer}; if it is there, order it, else reject it"),
    Template("find-stop", "order", "find {quantity} {item}. Then order it for {customer}; if not, reject it"),
    Template("find-or-else", "order", "find {quantity} {item} and then order it for {customer}, or else reject it"),
    Template("search-for", "order", "search for {quantity} {item}, then order it for {customer}, else reject it"),
    Template("look-for", "order", "look for {quantity} {item} for {customer}, then order it, otherwise reject it"),
    Template("price-then", "quote", "price {quantity} {item}, then quote it for {customer}"),
    Template("price-and-then", "quote", "price {quantity} {item} and then quote it for {customer}"),
    Template("price-next", "quote", "price {quantity} {item} for {customer}, next quote it"),
    Template("price-then-order", "both", "price {quantity} {item}, then quote it for {customer}, then order it"),
)
HELD_OUT = (
    Template("look-and-order", "order", "look for {quantity} {item}, order it for {customer}, otherwise reject it"),
    Template("search-if-so", "order", "search {quantity} {item} for {customer}; if so, order it, else reject it"),
    Template("price-and-quote", "quote", "price {quantity} {item} for {customer} and then quote it"),
    Template("price-after-that", "quote", "price {quantity} {item}; after that quote it for {customer}"),
    Template("quote-and-order", "both", "price {quantity} {item} and quote it for {customer}, then order it"),
)
"""Never live: only measured on."""

TRAITS = "silver golden old northern quiet bright broken winter early lucky iron little western salty green".split()  # noqa: SIM905
THINGS = "bowl plate heron star river lantern scarf blanket shell tooth curtain harbour arrow garden jug".split()  # noqa: SIM905
GIVEN = """
Ada Ben Carla Dario Elena Felix Grace Hugo Ida Jonas Kira Leo Maria Nora Oscar Paula Quinn Rosa Simon Tessa Umar Vera
Walter Xenia Yusuf Zoe Anna Boris Clara David Emma Frank Gina Henry Irene Jack Karen Lucas Mona Nils
""".split()  # noqa: SIM905
FAMILY = """
Abel Berg Cole Dunn Ernst Frost Gray Hart Irving Jung Kern Lang Moss Nash Orr Park Quill Ross Stone Troy Upton Voss Wolf
Young Adams Baker Carter Diaz Evans Fisher Green Hill Iqbal James King Lopez Martin Novak Owen Perez Reed Smith Taylor
Underwood Vega White Yates Zhang Allen Brown Clark Davis Ellis Ford Grant Hughes Jones Kelly Lewis Miller Nelson
""".split()  # noqa: SIM905
PLENTY = 100_000
SOLD_OUT_SHARE = 0.4


@dataclass(frozen=True)
class Job:
    """One job. Each has a customer of its own, by whom the checker finds what came of it."""

    template: Template
    customer: str
    item: Item
    quantity: int

    @property
    def text(self) -> str:
        return self.template.text.format(customer=self.customer, item=self.item.name, quantity=self.quantity)

    @property
    def wanted(self) -> set[tuple[str, ...]]:
        """What the shop should have in its books for the customer in the end (`Shop.of`)."""
        what = (self.item.name, str(self.quantity))
        quote, order = ("quotes", *what), ("orders", *what)
        match self.template.kind:
            case "order":
                return {order if self.item.stock else ("rejections", *what)}
            case "quote":
                return {quote}
            case "both":
                return {quote, order}


class Book:
    """Draws jobs: what there is in the shop, and customers of whom none comes twice. The same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(f"jobs/{seed}")
        # Of each plenty or nothing: so how a job should end does not depend on which job came first.
        self.items = [
            Item(f"{trait} {thing}", self._dice.randint(2, 60), 0 if self._dice.random() < SOLD_OUT_SHARE else PLENTY)
            for trait in TRAITS
            for thing in THINGS
        ]
        self._customers = self._names()

    def _names(self) -> Iterator[str]:
        names = [f"{given} {family}" for given in GIVEN for family in FAMILY]
        self._dice.shuffle(names)
        yield from names
        for second in FAMILY:
            yield from (f"{name}-{second}" for name in names)

    def draw(self, templates: tuple[Template, ...], count: int) -> list[Job]:
        """`count` jobs, of all templates alike, in an order that is drawn."""
        there = [item for item in self.items if item.stock]
        jobs = []
        for number in range(count):
            template = templates[number % len(templates)]
            item = self._dice.choice(there if template.kind == "both" else self.items)
            jobs.append(Job(template, next(self._customers), item, self._dice.randint(1, 20)))
        self._dice.shuffle(jobs)
        return jobs


def succeeded(job: Job, shop: Shop) -> bool:
    """The checker: whether the shop's books have for this customer what they should have, and nothing else."""
    return shop.of(job.customer) == job.wanted
