import asyncio
import threading

import pytest

from holdfast.resilience.sharing.places import Places

THREADS = 50


def test_a_place_is_taken_until_it_is_given_back() -> None:
    places = Places(2)
    assert [places.take() for _ in range(3)] == [True, True, False]
    places.give_back()
    assert [places.take(), places.take()] == [True, False]
    places.limit = 3
    assert [places.take(), places.take()] == [True, False]
    assert places.taken == 3


def test_a_task_gives_its_place_back_however_it_ends() -> None:
    places = Places(2)

    async def main() -> None:
        tasks = [asyncio.ensure_future(asyncio.sleep(0)), asyncio.ensure_future(asyncio.sleep(3600))]
        for task in tasks:
            assert places.take()
            places.keep_for(task)
        assert not places.take()
        tasks[1].cancel()
        await asyncio.wait(tasks)
        await asyncio.sleep(0)
        assert places.taken == 0

    asyncio.run(main())


def test_a_task_that_a_closed_loop_left_behind_holds_its_place_only_until_it_is_wanted() -> None:
    places = Places(1)
    loop = asyncio.new_event_loop()
    task = loop.create_task(asyncio.sleep(3600))
    assert places.take()
    places.keep_for(task)
    loop.run_until_complete(asyncio.sleep(0))
    assert not places.take()
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is what this test is about
    assert places.take()
    assert places.taken == 1
    places._leave(task)  # another thread saw it too
    assert places.taken == 1


@pytest.mark.usefixtures("switching_often")
def test_threads_never_take_more_places_than_there_are() -> None:
    places = Places(3)
    lock = threading.Lock()
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(100):
            if places.take():
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1
                places.give_back()

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < most <= 3
    assert places.taken == 0
