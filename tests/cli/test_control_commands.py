"""Commands against real supervisors."""

import os
import signal
import socket
import time
import urllib.request

import msgspec

from cli.rooms import APP, Room, eventually


def test_a_reload_returns_when_the_new_generation_serves(room: Room) -> None:
    room.serve()
    before = room.status()
    assert [worker["generation"] for worker in before["workers"]] == [1]
    done = room.call("reload")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("generation 2 serves: 1 worker, ")
    ready = [worker for worker in room.status()["workers"] if worker["state"] == "ready"]
    assert [worker["generation"] for worker in ready] == [2]
    answer = msgspec.json.decode(room.call("reload", "--json").stdout)
    assert (answer["ok"], answer["generation"], answer["workers"]) == (True, 3, 1)


def test_a_refused_reload_prints_the_apps_own_error_and_the_old_code_serves(room: Room) -> None:
    room.serve()
    room.save(APP + "\nraise RuntimeError('the table is missing')\n")
    refused = room.call("reload")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith("holdfast: reload refused: ")
    assert "Traceback" in refused.stderr
    assert "raise RuntimeError('the table is missing')" in refused.stderr
    as_json = room.call("reload", "--json")
    assert as_json.returncode == 1
    answer = msgspec.json.decode(as_json.stdout)
    assert answer["ok"] is False
    assert "the table is missing" in answer["detail"]
    status = room.status()
    assert (status["generation"], status["state"]) == (1, "serving")
    assert "generation 2 refused" in room.call("status").stdout
    with urllib.request.urlopen(status["addresses"][0], timeout=5) as response:
        assert response.read() == b"ok"
    room.save(APP)
    assert room.call("reload").returncode == 0


def test_a_reload_reads_the_file_and_the_environment_anew_but_keeps_the_flags(room: Room) -> None:
    settings = room.directory / "holdfast.toml"
    settings.write_text("[run]\nworkers = 3\nmax_requests = 5\n")
    room.serve()
    settings.write_text("[run]\nworkers = 2\nmax_request = 6\n")
    refused = room.call("reload")
    assert refused.returncode == 1
    assert "did you mean max_requests?" in refused.stderr
    settings.write_text("[run]\nworkers = 2\nmax_requests = 6\n")
    assert room.call("reload").returncode == 0
    assert room.status()["wanted"] == 1


def test_stop_returns_when_the_process_is_gone(room: Room) -> None:
    process = room.serve()
    stopped = room.call("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert f"app (process {process.pid}) has ended after" in stopped.stdout
    assert process.poll() == 0
    assert room.call("status").returncode == 4
    assert "Traceback" not in room.log().read_text()


def test_a_stop_that_takes_longer_than_the_limit_is_told(room: Room) -> None:
    process = room.serve("run", "--prestop-delay", "30s")
    late = room.call("stop", "--timeout", "500ms")
    assert late.returncode == 5
    assert f"(process {process.pid}) is still stopping after 0.5 s" in late.stderr
    now = room.call("stop", "--now", "--json")
    assert now.returncode == 0, now.stderr
    answer = msgspec.json.decode(now.stdout)
    assert (answer["stopped"], answer["pid"]) == (True, process.pid)
    assert process.poll() == 0


def test_an_upgrade_answers_from_the_new_program_in_the_same_process(room: Room) -> None:
    process = room.serve()
    done = room.call("upgrade")
    assert done.returncode == 0, done.stderr
    assert "generation 2 serves" in done.stdout
    status = room.status()
    assert (status["pid"], status["upgrades"], status["generation"]) == (process.pid, 1, 2)
    answer = msgspec.json.decode(room.call("upgrade", "--no-reload", "--json").stdout)
    assert (answer["ok"], answer["generation"]) == (True, 2)
    assert room.status()["upgrades"] == 2


def test_an_upgrade_whose_settings_are_wrong_is_refused_with_the_line(room: Room) -> None:
    room.serve()
    (room.directory / "holdfast.toml").write_text("[run]\nsurge = 0\n")
    refused = room.call("upgrade")
    assert refused.returncode == 1
    assert "run.surge: got 0, expected a whole number, at least 1" in refused.stderr
    assert room.status()["upgrades"] == 0


def test_an_upgrade_that_would_need_other_addresses_is_refused(room: Room) -> None:
    settings = room.directory / "service.toml"
    settings.write_text('[run]\nbind = ["127.0.0.1:0"]\n')
    room.serve("run", "--config", "service.toml", bind="")
    settings.write_text('[run]\nbind = ["127.0.0.1:1"]\n')
    refused = room.call("upgrade")
    assert refused.returncode == 1
    assert "bind has changed from 127.0.0.1:0 to 127.0.0.1:1" in refused.stderr
    assert room.status()["upgrades"] == 0


def test_a_deploy_by_symlink_survives_an_upgrade(room: Room) -> None:
    releases = [room.directory / "one", room.directory / "two"]
    for release in releases:
        release.mkdir()
        (release / "app.py").write_text(APP.replace("ok", release.name[:2]))
    current = room.directory / "current"
    current.symlink_to(releases[0])
    room.directory = current
    room.serve()
    current.unlink()
    current.symlink_to(releases[1])
    assert room.call("upgrade").returncode == 0
    address = room.status()["addresses"][0]
    with urllib.request.urlopen(address, timeout=5) as response:
        assert response.read() == b"tw"
    current.unlink()
    current.symlink_to(releases[0])
    assert room.call("reload").returncode == 0
    eventually(lambda: urllib.request.urlopen(address, timeout=5).read() == b"on", "the first release again")


def test_scale_and_drain_change_what_status_tells(room: Room) -> None:
    room.serve()
    assert room.call("scale", "2").stdout == "app has 2 workers\n"
    assert room.status()["wanted"] == 2
    assert "elsewhere" in room.call("drain").stdout
    assert room.status()["state"] == "draining"
    assert msgspec.json.decode(room.call("drain", "--off", "--json").stdout)["state"] == "serving"
    refused = room.call("scale", "5000")
    assert refused.returncode == 1
    assert "a number from 1 to 1024" in refused.stderr


def test_events_are_told_with_their_time(room: Room) -> None:
    room.serve()
    began = time.time()
    assert room.call("reload").returncode == 0
    told = room.call("events", "--timeout", "300ms")
    assert told.returncode == 0, told.stderr
    assert "generation 2 serves" in told.stdout
    lines = room.call("events", "--json", "--timeout", "300ms").stdout.splitlines()
    events = [msgspec.json.decode(line) for line in lines]
    replaced = [event for event in events if event["type"] == "GenerationReplaced"]
    assert [event["generation"] for event in replaced] == [1, 2]
    assert abs(replaced[1]["at"] - began) < 30


def test_followers_that_left_do_not_use_up_the_connections(room: Room) -> None:
    room.serve()
    path = str(room.runtime / "app.sock")
    for _ in range(100):
        with socket.socket(socket.AF_UNIX) as follower:
            follower.connect(path)
            follower.sendall(b'{"op":"events"}\n')
            with follower.makefile("rb") as lines:
                assert any(b"GenerationReplaced" in line for line in lines)  # the last of the past ones
    eventually(lambda: room.call("status").returncode == 0, "room for one more command")


def test_several_supervisors_need_a_name(room: Room) -> None:
    room.start(name="orders")
    room.start(name="payments")
    room.wait_for("serves http", "orders")
    room.wait_for("serves http", "payments")
    asked = room.call("status")
    assert asked.returncode == 2
    assert "several supervisors are running; add --name: orders, payments" in asked.stderr
    assert room.status("--name", "orders")["name"] == "orders"
    assert msgspec.json.decode(room.call("status", "--json", HOLDFAST_NAME="payments").stdout)["name"] == "payments"
    assert room.status("--control", str(room.runtime / "orders.sock"))["name"] == "orders"
    wrong = room.call("stop", "--name", "order")
    assert wrong.returncode == 4
    assert "did you mean --name orders?" in wrong.stderr
    second = room.start(name="orders")
    assert second.wait(20) == 3
    assert "a free path" in room.log("orders").read_text()


def test_a_socket_that_nobody_serves_is_not_a_supervisor(room: Room) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(room.runtime / "dead.sock"))
    left.close()
    room.serve()
    assert room.status()["name"] == "app"


def test_a_supervisor_that_does_not_answer_is_a_time_out(room: Room) -> None:
    process = room.serve()
    os.kill(process.pid, signal.SIGSTOP)
    try:
        late = room.call("status", "--timeout", "300ms")
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert late.returncode == 5
    assert "gave no answer within 0.3 s" in late.stderr


def test_a_service_that_cannot_start_exits_with_3(room: Room) -> None:
    room.save("raise RuntimeError('no database')")
    assert room.start().wait(20) == 3
    assert "no database" in room.log().read_text()


def test_an_address_in_use_exits_with_3_and_names_it(room: Room) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert room.start(bind=f"127.0.0.1:{port}").wait(20) == 3
    log = room.log().read_text()
    assert f"127.0.0.1:{port}" in log
    assert "Traceback" not in log


def test_an_interrupt_ends_the_service_without_a_traceback(room: Room) -> None:
    process = room.serve()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert "Traceback" not in room.log().read_text()


def test_watch_ends_when_the_supervisor_has_ended(room: Room) -> None:
    process = room.serve()
    process.send_signal(signal.SIGTERM)
    watched = room.call("status", "--watch", "--json")
    assert watched.returncode == 4
    assert process.wait(20) == 0
