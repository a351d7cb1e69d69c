"""Health where a balancer asks for it: on the admin address, and on the service's own port."""

import json
from collections.abc import Callable

from e2e.harness import Running, request, wait_for


def test_the_admin_address_answers_for_the_whole_service(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "2", "--admin", "127.0.0.1:0")
    admin = running.status()["admin"][0].partition("://")[2]
    for path in ("/livez", "/readyz", "/startupz"):
        assert request(admin, path)[::2] == (200, b"ok\n")
    status = json.loads(request(admin, "/status")[2])
    assert len(status["workers"]) == 2
    assert request(admin, "/nothing")[0] == 404
    assert request(admin, "/readyz", method="POST")[0] == 405
    assert request(running.address, "/readyz")[2].split()[0].isdigit(), "the service's own port is the app's"


def test_the_admin_address_goes_on_through_a_reload(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1", "--admin", "127.0.0.1:0")
    admin = running.status()["admin"][0].partition("://")[2]
    running.reload()
    assert request(admin, "/readyz")[0] == 200
    assert running.status()["admin"][0].endswith(admin)


def test_the_own_port_answers_when_asked_to(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1", "--health")
    for path in ("/livez", "/readyz", "/startupz"):
        assert request(running.address, path)[0] == 200
    assert request(running.address, "/other")[2].split()[0].isdigit(), "everything else is the app's"


def test_drained_by_hand_it_is_not_ready_says_close_and_comes_back(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1", "--admin", "127.0.0.1:0")
    admin = running.status()["admin"][0].partition("://")[2]
    running.ask("drain")
    wait_for(lambda: request(admin, "/readyz")[0] == 503)
    assert request(admin, "/livez")[0] == 200
    wait_for(lambda: request(running.address)[1].get("connection") == "close")
    running.ask("drain", on=False)
    wait_for(lambda: request(admin, "/readyz")[0] == 200)
    wait_for(lambda: "connection" not in request(running.address)[1])
