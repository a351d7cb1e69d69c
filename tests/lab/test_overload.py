"""What the overload says of what was counted."""

import asyncio
from typing import Any

import pytest

from holdfast.lab import overload
from holdfast.lab.histogram import Histogram
from holdfast.lab.mix import looking, steady
from holdfast.lab.scene import Scene
from holdfast.lab.shop import PAGES_PER_SECOND
from holdfast.lab.stage import Second, Stage, tell
from holdfast.lab.tally import Count, Frame, Tally


class Gateway:
    address = "127.0.0.1:1"


class Moves:
    """A stage on which each second brings two frames, and the traffic that was asked for is noted."""

    def __init__(self) -> None:
        self.scene = Scene(None, 200.0)
        self.asked: list[Any] = []
        self.silent = False

    async def add(self, parts: list[Any]) -> None:
        self.asked += parts

    async def pass_a_second(self, seconds: float) -> None:
        at = self.scene.frames[-1].at if self.scene.frames else 0.0
        for number in range(0 if self.silent else 2):
            latency = Histogram()
            latency.record(0.02)
            orders = Count(ok=25, latency=latency)
            self.scene.frame(
                Frame(at + 0.5 * (number + 1), kinds={"orders": orders, "browsing": Count(ok=100, refused=300)})
            )

    def stage(self) -> Stage:
        return Stage({"gateway": Gateway()}, self, self.scene, self.pass_a_second)  # type: ignore[arg-type]


def tally(*, orders: tuple[int, int], browsing: tuple[int, int], lost: int = 0) -> Tally:
    latency = Histogram()
    latency.record(0.0301)
    kinds: Any = {
        "orders": Count(ok=orders[0], refused=orders[1], latency=latency),
        "browsing": Count(ok=browsing[0], refused=browsing[1]),
    }
    return Tally("overload", failures={"eof": lost} if lost else {}, kinds=kinds)


def test_traffic_rises_above_what_can_be_done_and_each_second_is_told() -> None:
    moves = Moves()
    account = asyncio.run(overload.overload(moves.stage()))
    rates = [part.load.rate for part in moves.asked]
    assert rates == [0.25 * PAGES_PER_SECOND, 2.5 * PAGES_PER_SECOND]
    assert all(part.load.duration < 10 and part.load.count <= part.load.rate * 10 for part in moves.asked)
    lines = [line.text for line in moves.scene.lines if line.kind == "event"]
    assert lines == ["orders 50/s, p99 20 ms; browsing 200/s answered, 600/s refused"] * 8
    seconds = account.detail["by_second"]
    assert isinstance(seconds, list)
    assert seconds[0]["browsing"] == {"answered": 200, "refused": 600, "failures": 0, "p99_ms": 0.0}


def test_a_second_without_news_from_the_traffic_is_left_out() -> None:
    moves = Moves()
    moves.silent = True
    assert asyncio.run(tell(moves.stage(), 3)) == []
    assert not moves.scene.lines


def test_the_account_says_in_a_sentence_what_happened_and_what_was_to_be_expected() -> None:
    account = asyncio.run(overload.overload(Moves().stage()))
    counted = tally(orders=(999, 1), browsing=(2500, 5500))
    assert account.complain(counted) == ""
    assert account.note(counted) == "orders 99.9 %, p99 30 ms; browsing 31.2 %"
    assert account.sentence(counted) == (
        "asked for 2.5 times what it can draw, the gateway answered 999 of 1,000 orders (99.9 %, p99 30 ms) and 2,500 "
        "who browse, told 5,500 to come again, and lost 0; expected: 0 lost, at least 99 % of the orders answered"
    )


def test_a_share_is_not_rounded_up_to_all() -> None:
    account = asyncio.run(overload.overload(Moves().stage()))
    assert "orders 99.9 %" in account.note(tally(orders=(99_999, 1), browsing=(1, 1)))


@pytest.mark.parametrize(
    ("browsing", "complaint"), [((500, 0), "that was no overload"), ((0, 500), "that was no service")]
)
def test_an_overload_in_which_nobody_was_refused_or_nobody_served_shows_nothing(
    browsing: tuple[int, int], complaint: str
) -> None:
    account = asyncio.run(overload.overload(Moves().stage()))
    assert complaint in account.complain(tally(orders=(10, 0), browsing=browsing))


def test_a_loss_in_a_second_is_told_in_its_line() -> None:
    second = Second(2.0, Count(ok=10, failed=1), Count(ok=20, refused=4, failed=2))
    assert str(second) == "orders 5/s, p99 0 ms; browsing 10/s answered, 2/s refused; 3 lost"


def test_the_steady_traffic_has_the_rate_that_was_asked_for_and_keeps_the_receipts_of_orders_only() -> None:
    parts = steady("127.0.0.1:1", 200.0, "7")
    assert sum(part.load.rate or 0 for part in parts) == pytest.approx(200.0)
    assert sum(part.load.rate or 0 for part in parts if part.kind == "orders") == pytest.approx(50.0)
    assert [part.receipts for part in parts] == [part.kind == "orders" for part in parts]
    assert not looking("127.0.0.1:1", 10.0, 1.0).receipts
