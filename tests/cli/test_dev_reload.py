"""``holdfast dev`` and the files that a person saves."""

import signal
import urllib.request
from pathlib import Path

from cli.rooms import APP, Room
from holdfast.cli.changes import matters


def answer(room: Room) -> bytes:
    with urllib.request.urlopen(room.status()["addresses"][0], timeout=5) as response:
        body: bytes = response.read()
        return body


def test_a_save_reloads_a_broken_one_keeps_the_old_code_and_the_next_good_one_works(room: Room) -> None:
    process = room.serve("dev")
    assert room.status()["wanted"] == 1
    room.save(APP.replace("ok", "v2"))
    room.wait_for("generation 2 serves")
    assert answer(room) == b"v2"
    room.save(APP + "\nraise RuntimeError('half a thought')\n")
    room.wait_for("RuntimeError: half a thought")
    room.wait_for("serves on")
    assert answer(room) == b"v2"
    room.save(APP.replace("ok", "v3"))
    room.wait_for("generation 3 serves")
    assert answer(room) == b"v3"
    assert "app.py changed" in room.log().read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def test_an_app_that_is_broken_from_the_start_is_tried_again_at_the_next_save(room: Room) -> None:
    room.save("import nowhere_to_be_found")
    process = room.start("dev")
    room.wait_for("waiting for a file to be saved")
    room.save(APP)
    room.wait_for("serves http")
    assert answer(room) == b"ok"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_waiting_for_a_save_can_be_interrupted(room: Room) -> None:
    room.save("import nowhere_to_be_found")
    process = room.start("dev")
    room.wait_for("waiting for a file to be saved")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 3
    assert "KeyboardInterrupt" not in room.log().read_text()


def test_a_save_calls_off_the_boot_of_the_one_before(room: Room) -> None:
    room.serve("dev")
    room.save("import time\nprint('asleep', flush=True)\ntime.sleep(60)\n")
    room.wait_for("asleep")
    room.save(APP.replace("ok", "v2"))
    room.wait_for("generation 2 serves")
    assert answer(room) == b"v2"


def test_what_the_file_says_for_production_does_not_hold_but_flags_do(room: Room) -> None:
    (room.directory / "holdfast.toml").write_text('[run]\nworkers = 4\nlog_format = "json"\nprestop_delay = "1m"\n')
    process = room.serve("dev", "--workers", "2")
    assert room.status()["wanted"] == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_only_what_a_person_writes_matters(tmp_path: Path) -> None:
    root = tmp_path / ".hidden" / "project"
    (root / "env").mkdir(parents=True)
    (root / "env" / "pyvenv.cfg").touch()

    def counts(name: str) -> bool:
        return matters(root / name, [root])

    assert counts("app.py")
    assert counts("templates/page.html")
    assert counts("holdfast.toml")
    assert counts(".env")
    assert not counts("orders.db")
    assert not counts("service.log")
    assert not counts("__pycache__/app.py")
    assert not counts(".venv/lib/thing.py")
    assert not counts(".git/hook.py")
    assert not counts("env/lib/thing.py")
    assert not matters(tmp_path / "elsewhere.py", [root])
