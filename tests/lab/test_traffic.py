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
from holdfast.lab.traffic import Frame, Part, Receipt, Tally, TrafficProcess

LIMIT = 20.0


async def shopkeeper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Makes an order of each POST, named after the reference, and fails each GET."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
            await reader.readexactly(int(fields.get("content-length", 0)))
            body = b'{"id": "%s", "reference": "%s"}' % ((fields.get("x-order-reference", "").encode(),) * 2)
            status = b"201 Created" if head.startswith(b"POST") else b"503 Unavailable"
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
        get = Load(addresses=(f"{host}:{port}",), count=3, connections=1)
        traffic = await TrafficProcess.start([Part(post, receipts=True), Part(get)], frames.append)
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
    assert (first.ok, first.failures) == (40, {"status 503": 3})
    assert (last.name, last.requests) == ("second", 0)
    assert sorted(receipt.reference for receipt in receipts) == sorted(f"n{number}" for number in range(1, 41))
    assert frames[0].ok + frames[0].failed <= 43


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
        scene.frame(Frame(at=number / 2, ok=100, failed=number % 50 == 49, worst=0.02))
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
    for expected in ("requests/s", "●3 ✖3 ◑3", "killing a worker", "kill -9", "what each step cost"):
        assert expected in picture


def test_a_hung_worker_is_told_with_the_place_it_hangs_at() -> None:
    stacks = (
        'Thread 0x1 (most recent call first):\n  File "/x/threading.py", line 1 in wait\n\n'
        'Current thread 0x2 (most recent call first):\n  File "/srv/shop/web.py", line 53 in hang\n'
        '  File "/y.py", line 2 in z\n'
    )
    line = narrate("payments", Happening("WorkerHung", slot=1, pid=7, seconds=2.07, stacks=stacks))
    assert line == "payments: worker 1 blocked for 2.1 s at web.py:53 hang"
