"""The edit of the gateway's limit: what is written, and when it holds."""

from pathlib import Path

import pytest

from holdfast.lab.edit import answered_per_second, find_limit, holds, misspelt, with_limit, write
from holdfast.lab.link import ServiceView, WorkerView
from holdfast.lab.shop import DemoError, find_source
from holdfast.lab.stage import Second
from holdfast.lab.tally import Count

TEXT = '[[routes]]\nmatch = "/"\nrate_limit = "9/s"\n\n[[routes]]\nmatch = "/b"\n'


def test_the_limit_is_found_in_the_gateways_own_file_and_nothing_else_is_changed() -> None:
    text = (find_source() / "gateway.toml").read_text()
    assert find_limit(text) == "1000/s"
    changed = with_limit(text, "25/s")
    assert find_limit(changed) == "25/s"
    assert changed.replace("25/s", "1000/s") == text


def test_the_typing_error_is_in_the_name_of_the_limit() -> None:
    assert misspelt(TEXT) == TEXT.replace("rate_limit", "rate_limti")


@pytest.mark.parametrize("text", ["", TEXT * 2, TEXT.replace("rate", "# rate")])
def test_a_file_without_one_limit_is_not_edited(text: str) -> None:
    with pytest.raises(DemoError, match="there must be one"):
        find_limit(text)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(TEXT)
    with path.open() as before:
        write(path, "new")
        assert before.read() == TEXT, "who reads while it is saved reads all of the old one"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("versions", "held"), [((2, 2), True), ((1, 2), False), ((2, 0), False), ((), False)])
def test_a_change_holds_once_every_worker_has_it(versions: tuple[int, ...], held: bool) -> None:
    workers = tuple(WorkerView(slot, 100, 1, "ready", configuration=one) for slot, one in enumerate(versions))
    assert holds(ServiceView("gateway", 9, "serving", 1, 2, workers, configuration=2)) is held


def test_answers_are_counted_by_the_time_that_the_seconds_really_took() -> None:
    seconds = [Second(1.0, Count(), Count(ok=100)), Second(3.0, Count(), Count(ok=100, refused=50))]
    assert answered_per_second(seconds) == 50.0
    assert answered_per_second([]) == 0.0
