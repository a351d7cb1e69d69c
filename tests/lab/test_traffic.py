"""The demo's traffic, its ledger, and what the scene makes of them."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from holdfast.lab.commentary import narrate
from holdfast.lab.demo_view import draw, summary
from holdfast.lab.ledger import Ledger
from holdfast.lab.link import Happening, ServiceView, WorkerView
from holdfast.lab.load import Load
from holdfast.lab.scene import OrderCheck, Scene, StepResult
from holdfast.lab.tally import Count, Frame, Kind, Tally
from holdfast.lab.traffic import MAX_ADDED, Part, Receipt, TrafficProcess

LIMIT = 20.0


async def shopkeeper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Makes an order of each POST, named after the reference; has no time for a GET, and none at all for a DELETE."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
            await reader.readexactly(int(fields.get("content-length", 0)))
            body = b'{"id": "%s", "reference": "%s"}' % ((fields.get("x-order-reference", "").encode(),) * 2)
            method = head.split(b" ")[0]
            status = {b"POST": b"201 Created", b"GET": b"503 Unavailable", b"PUT": b"429 Too Many"}.get(
                method, b"500 No"
            )
            writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
    except asyncio.IncompleteReadError:
        writer.close()


def test_requests_are_counted_in_the_step_in_which_they_end_and_every_receipt_is_kept() -> None:
    async def play() -> tuple[list[Frame], Tally, Tally, list[Receipt]]:
        frames: list[Frame] = []
        server = await asyncio.start_server(shopkeeper, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        headers = (("x-order-reference", "n{n}"),)
        post = Load(
            addresses=(f"{host}:{port}",),
            method="POST",
            headers=headers,
            body=b"",
            count=40,
            connections=8,
            mode="connect",
        )
        parts = [Part(post, "orders", receipts=True)]
        for method, count in (("GET", 3), ("PUT", 2), ("DELETE", 4)):
            load = Load(addresses=(f"{host}:{port}",), method=method, count=count, connections=1)
            parts.append(Part(load, "browsing"))
        traffic = await TrafficProcess.start(parts, frames.append)
        receipts: list[Receipt] = []
        try:
            while len(receipts) < 40 or not frames:
                receipts += await traffic.receipts()
                await asyncio.sleep(0.02)
            first = await traffic.step("second")
            last = await traffic.stop()
        finally:
            await traffic.close()
            server.close()
        return frames, first, last, receipts

    async def limited() -> tuple[list[Frame], Tally, Tally, list[Receipt]]:
        async with asyncio.timeout(LIMIT):
            return await play()

    frames, first, last, receipts = asyncio.run(limited())
    assert (first.ok, first.refused, first.failures) == (40, 5, {"status 500": 4})
    orders, browsing = first.of("orders"), first.of("browsing")
    assert (orders.ok, orders.refused, orders.failed) == (40, 0, 0)
    assert (browsing.ok, browsing.refused, browsing.failed) == (0, 5, 4)
    assert [sample.partition(" after")[0] for sample in first.samples] == ["status 500"] * 4
    assert (last.name, last.requests) == ("second", 0)
    assert sorted(receipt.reference for receipt in receipts) == sorted(f"n{number}" for number in range(1, 41))
    assert frames[0].requests <= 49


def test_traffic_that_was_added_can_be_ended_and_the_rest_goes_on() -> None:
    async def play() -> tuple[Tally, Tally]:
        frames: list[Frame] = []
        server = await asyncio.start_server(shopkeeper, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        get = Load(addresses=(f"{host}:{port}",), rate=50, connections=2, duration=LIMIT)
        traffic = await TrafficProcess.start([Part(get, "parcels")], frames.append)
        try:
            await traffic.add([Part(get, "browsing")])
            seen = Tally("added")
            while not seen.of("browsing").refused:
                seen.add(await traffic.step("added"))
            await traffic.ease()
            seen.add(await traffic.step("eased"))
            after = Tally("eased")
            while after.of("parcels").refused < 10:
                after.add(await traffic.step("eased"))
            await traffic.add([Part(get)] * MAX_ADDED)
            with pytest.raises(RuntimeError, match=f"at most {MAX_ADDED} loads"):
                await traffic.add([Part(get)])
        finally:
            await traffic.close()
            server.close()
        return seen, after

    async def limited() -> tuple[Tally, Tally]:
        async with asyncio.timeout(LIMIT):
            return await play()

    seen, after = asyncio.run(limited())
    assert seen.of("browsing").refused > 0
    assert after.of("browsing").requests == 0


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE orders (id TEXT, reference TEXT)")
        database.executemany(
            "INSERT INTO orders VALUES (?, ?)", [("a", "1"), ("b", "2"), ("c", "2"), ("d", "4"), ("e", "")]
        )
    return path


def test_the_ledger_finds_a_lost_order_a_double_one_and_one_without_a_receipt(orders: Path) -> None:
    result = OrderCheck()
    ledger = Ledger(orders)
    ledger.check([Receipt("a", "1"), Receipt("b", "2"), Receipt("x", "3")], result)
    ledger.count(result)
    assert (result.checked, result.missing, result.doubled, result.unreceipted) == (3, 1, 1, 1)
    assert not result.holds


def test_an_order_stored_under_another_id_than_the_receipts_is_missing(orders: Path) -> None:
    result = OrderCheck()
    Ledger(orders).check([Receipt("z", "1")], result)
    assert (result.missing, result.holds) == (1, False)


def result_of(name: str, *, lost: int, free: bool) -> StepResult:
    tally = Tally(name, ended=1.0, ok=10, failures={"reset": lost} if lost else {})
    return StepResult(name=name, service="orders", round=1, tally=tally, note="", done=True, free=free)


@pytest.mark.parametrize(("free", "ok"), [(True, False), (False, True)])
def test_a_loss_breaks_the_promise_only_in_a_step_that_may_cost_nothing(free: bool, ok: bool) -> None:
    scene = Scene(None, 200.0)
    scene.orders.checked = 1
    scene.add(result_of("reload", lost=1, free=free))
    assert scene.ok is ok


def shedding(*, sheds: bool, lost: int = 0, **refused: int) -> StepResult:
    kinds: dict[Kind, Count] = {
        "orders": Count(ok=200 - refused.get("orders", 0), refused=refused.get("orders", 0)),
        "browsing": Count(ok=100, refused=refused.get("browsing", 0)),
    }
    ok, away = sum(count.ok for count in kinds.values()), sum(count.refused for count in kinds.values())
    tally = Tally("step", ok=ok, refused=away, failures={"eof": lost} if lost else {}, kinds=kinds)
    return StepResult(name="step", service="gateway", round=1, tally=tally, note="", done=True, free=True, sheds=sheds)


@pytest.mark.parametrize(
    ("result", "good"),
    [
        (shedding(sheds=False, browsing=3), True),
        (shedding(sheds=False, orders=1), False),
        (shedding(sheds=True, browsing=900, orders=2), True),
        (shedding(sheds=True, browsing=900, orders=3), False),
        (shedding(sheds=True, browsing=900, lost=1), False),
    ],
    ids=["browsing", "an order", "an order in a hundred", "more of them", "a loss"],
)
def test_a_refusal_is_no_loss_but_orders_are_not_refused(result: StepResult, good: bool) -> None:
    scene = Scene(None, 200.0)
    scene.orders.checked = 1
    scene.add(result)
    assert (result.good, scene.ok) == (good, good)
    assert scene.as_json()["totals"]["refused"] == result.tally.refused  # type: ignore[index]


def test_what_ended_since_a_moment_is_told_in_one_frame_by_kind() -> None:
    scene = Scene(None, 200.0)
    for number in range(4):
        kinds: dict[Kind, Count] = {"orders": Count(ok=1), "browsing": Count(ok=2, refused=number)}
        scene.frame(Frame(at=number / 2, ok=3, refused=number, worst=number / 100, kinds=kinds))
    whole = scene.since(0.5)
    assert (whole.at, whole.ok, whole.refused, whole.worst) == (1.5, 6, 5, 0.03)
    assert (whole.of("orders").ok, whole.of("browsing").ok, whole.of("browsing").refused) == (2, 4, 5)
    assert scene.since(1.5).at == 1.5
    assert scene.frames[2].of("browsing").refused == 2, "the frames themselves stay as they are"


def test_what_is_lost_between_two_steps_is_put_down_to_the_one_before() -> None:
    scene = Scene(None, 200.0)
    scene.orders.checked = 1
    scene.add(result_of("reload", lost=0, free=True))
    before = scene.ok
    scene.absorb(Tally("between", ok=1, failures={"eof": 2}))
    assert (before, scene.ok) == (True, False)
    assert scene.results[-1].tally.failed == scene.total.failed == 2


def test_no_order_checked_is_no_proof() -> None:
    scene = Scene(None, 200.0)
    scene.add(result_of("reload", lost=0, free=True))
    assert not scene.ok


@pytest.mark.parametrize(("width", "height"), [(72, 24), (116, 42), (200, 60)])
def test_the_picture_fits_the_terminal_and_shows_losses_states_and_costs(width: int, height: int) -> None:
    scene = Scene(60.0, 200.0)
    for number in range(300):
        kinds: dict[Kind, Count] = {"orders": Count(ok=25), "browsing": Count(ok=75, refused=number % 2 * 40)}
        away = kinds["browsing"].refused
        scene.frame(Frame(at=number / 2, ok=100, refused=away, failed=number % 50 == 49, worst=0.02, kinds=kinds))
    scene.mark("kill")
    workers = tuple(WorkerView(slot, 100 + slot, 3, state) for slot, state in enumerate(("ready", "hung", "draining")))
    scene.services["orders"] = ServiceView("orders", 99, "serving", 3, 2, workers)
    scene.say("killing a worker", "do")
    scene.add(result_of("kill -9", lost=2, free=False))
    console = Console(width=width, height=height, record=True, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(draw(scene, width, height), height=height)
        console.print(summary(scene))
    lines = capture.get().splitlines()
    assert max(len(line) for line in lines) <= width
    picture = "\n".join(lines[:height])
    for expected in (
        "requests/s",
        "50 orders/s",
        "150 browse/s",
        "40 refused/s",
        "refused ",
        "●3 ✖3 ◑3",
        "killing a worker",
        "kill -9",
        "what each step cost",
    ):
        assert expected in picture


def painted(scene: Scene) -> str:
    console = Console(width=200, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(draw(scene, 200, 60), height=60)
        console.print(summary(scene))
    return capture.get()


def test_the_summary_tells_refusals_apart_from_losses() -> None:
    scene = Scene(None, 200.0)
    scene.add(shedding(sheds=True, browsing=1900))
    text = painted(scene)
    assert "2,200 requests in 0:00 (0/s): 0 lost" in text
    assert "1,900 were refused by an overload or an edited limit" in text


@pytest.mark.parametrize(
    ("versions", "refused", "shown"), [((3, 3), (), "3"), ((3, 4), (), "3/4"), ((4, 4), ("a typing error",), "4!")]
)
def test_the_picture_shows_which_configuration_the_workers_have(
    versions: tuple[int, ...], refused: tuple[str, ...], shown: str
) -> None:
    scene = Scene(None, 200.0)
    workers = tuple(WorkerView(slot, 100, 1, "ready", configuration=one) for slot, one in enumerate(versions))
    scene.services["orders"] = ServiceView(
        "orders", 99, "serving", 1, 2, workers, configuration=versions[0], refused=refused
    )
    row = next(line for line in painted(scene).splitlines() if "orders" in line and "●1 ●1" in line)
    assert row.split("●1 ●1")[1].split()[0] == shown


@pytest.mark.parametrize(
    ("happening", "line"),
    [
        (
            Happening("ConfigurationChanged", version=2, changes=("routes[0].timeout: '1s' -> '2s'",)),
            "gateway: configuration 2 holds: routes[0].timeout: '1s' -> '2s'",
        ),
        (
            Happening("ConfigurationRefused", version=2, mistakes=("a typing error",)),
            "gateway: a configuration is refused, 2 stays",
        ),
    ],
)
def test_a_change_of_the_configuration_is_told(happening: Happening, line: str) -> None:
    assert narrate("gateway", happening) == line


def test_a_hung_worker_is_told_with_the_place_it_hangs_at() -> None:
    stacks = (
        'Thread 0x1 (most recent call first):\n  File "/x/threading.py", line 1 in wait\n\n'
        'Current thread 0x2 (most recent call first):\n  File "/srv/shop/web.py", line 53 in hang\n'
        '  File "/y.py", line 2 in z\n'
    )
    line = narrate("payments", Happening("WorkerHung", slot=1, pid=7, seconds=2.07, stacks=stacks))
    assert line == "payments: worker 1 blocked for 2.1 s at web.py:53 hang"
