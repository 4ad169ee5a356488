"""The shop that the demo's agent works in: its books, its tools, and the jobs that are judged by them."""

from __future__ import annotations

from pathlib import Path

import pytest
from mcp.client.client import Client
from mcp_types import CallToolResult

from demo import shop as shops
from demo.jobs import HELD_OUT, LEARNT, Book, Job, Template, succeeded
from demo.shop import Item, Shop

BOWL, JUG = Item("old bowl", 7, 100), Item("iron jug", 5, 0)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path / "shop.db")
    shop.open_with([BOWL, JUG])
    return shop


def job(kind: str, item: Item = BOWL) -> Job:
    template = next(template for template in LEARNT if template.kind == kind)
    return Job(template, "Ada A. Abel", item, 3)


def test_books_say_all_that_was_done_for_a_customer(shop: Shop) -> None:
    assert shop.find("3", "old bowl") == "in stock" and shop.find("3", "iron jug") == "sold out"
    assert shop.find("101", "old bowl") == "only 100 left" and shop.price("3", "old bowl") == "21 euros"
    shop.order("3", "old bowl", "Ada")
    assert shop.quote("3", "old bowl", "Ada") == "told Ada: 21 euros"
    shop.reject("2", "iron jug", "Ben")
    assert shop.of("Ada") == {("orders", "old bowl", "3"), ("quotes", "old bowl", "3")}
    assert shop.of("Ben") == {("rejections", "iron jug", "2")} and shop.of("Cem") == set()
    assert shop.find("98", "old bowl") == "only 97 left"


@pytest.mark.parametrize(
    ("quantity", "item", "said"),
    [
        ("3", "iron jug", "not enough of it"),
        ("3", "no bowl", "unknown item"),
        ("many", "old bowl", "not a number of pieces"),
        ("0", "old bowl", "not a number of pieces"),
        ("-1", "old bowl", "not a number of pieces"),
    ],
)
def test_what_cannot_be_ordered_is_refused_in_a_few_words_and_leaves_no_trace(
    shop: Shop, quantity: str, item: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        shop.order(quantity, item, "Ada")
    assert shop.of("Ada") == set() and shop.find("100", "old bowl") == "in stock"


async def test_tools_say_the_same_through_mcp_and_tell_which_of_them_only_look(shop: Shop) -> None:
    async with Client(shops.server(shop)) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        looks = {name for name, tool in tools.items() if tool.annotations and tool.annotations.read_only_hint}
        assert looks == {"find_item", "price_item"} and len(tools) == 5
        found = await client.call_tool("price_item", {"quantity": "3", "item": "old bowl"})
        refused = await client.call_tool("order_item", {"quantity": "3", "item": "iron jug", "customer": "Ada"})
    assert (text(found), found.is_error) == ("21 euros", False)
    assert "not enough of it" in text(refused) and refused.is_error


def text(result: CallToolResult) -> str:
    return "".join(getattr(block, "text", "") for block in result.content)


def test_an_order_is_done_if_the_books_have_it_and_nothing_else(shop: Shop) -> None:
    assert not succeeded(job("order"), shop)
    shop.order("3", "old bowl", "Ada A. Abel")
    assert succeeded(job("order"), shop)
    shop.order("3", "old bowl", "Ada A. Abel")
    assert not succeeded(job("order"), shop), "twice"


def test_what_is_sold_out_must_be_rejected(shop: Shop) -> None:
    assert not succeeded(job("order", JUG), shop)
    shop.reject("3", "iron jug", "Ada A. Abel")
    assert succeeded(job("order", JUG), shop) and not succeeded(job("order"), shop)


def test_a_quote_must_be_for_what_was_asked(shop: Shop) -> None:
    shop.quote("2", "old bowl", "Ada A. Abel")
    assert not succeeded(job("quote"), shop)
    shop.open_with([BOWL, JUG])
    shop.quote("3", "old bowl", "Ada A. Abel")
    assert succeeded(job("quote"), shop) and not succeeded(job("both"), shop)
    shop.order("3", "old bowl", "Ada A. Abel")
    assert succeeded(job("both"), shop)


def test_jobs_are_the_same_for_a_seed_and_no_customer_comes_twice() -> None:
    one, same, other = Book(1), Book(1), Book(2)
    jobs, again, others = (book.draw(LEARNT, 300) + book.draw(HELD_OUT, 100) for book in (one, same, other))
    assert jobs == again != others
    assert len({each.customer for each in [*jobs, *one.draw(LEARNT, 5000)]}) == 5400
    assert all(each.item.stock for each in jobs if each.template.kind == "both")
    assert 0.2 < sum(not each.item.stock for each in jobs) / len(jobs) < 0.5


def test_what_is_measured_is_put_in_other_ways_than_what_is_learnt() -> None:
    def ways(templates: tuple[Template, ...]) -> set[str]:
        return {template.text for template in templates}

    assert not ways(LEARNT) & ways(HELD_OUT)
    names = [template.name for template in (*LEARNT, *HELD_OUT)]
    assert len(set(names)) == len(names)
    assert {template.kind for template in HELD_OUT} == {template.kind for template in LEARNT}
