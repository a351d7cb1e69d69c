import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from holdfast.core.errors import BootError
from holdfast.server.wsgi import WSGIBridge
from holdfast.service.interface import detect, load
from holdfast.service.service import Service


@pytest.fixture
def app_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.path", __import__("sys").path.copy())
    (tmp_path / "shop_load").mkdir()
    (tmp_path / "shop_load" / "__init__.py").write_text("")
    (tmp_path / "shop_load" / "good.py").write_text(
        "class api:\n    app = 'the app'\n\ndef make():\n    return 'made'\n\n"
        "def broken():\n    raise ValueError('no settings')\n\nasync def later(): ...\n"
    )
    (tmp_path / "shop_load" / "raises.py").write_text("def f():\n    raise ValueError('bad value')\nf()\n")
    (tmp_path / "shop_load" / "imports.py").write_text("import not_installed_here\n")
    (tmp_path / "shop_load" / "leaves.py").write_text("raise SystemExit(4)\n")
    (tmp_path / "shop_load" / "typo.py").write_text("def f(:\n")
    return tmp_path


def test_an_attribute_path_is_followed(app_dir: Path) -> None:
    assert load("shop_load.good:api.app", app_dir=app_dir) == "the app"
    assert load("shop_load.good:make", app_dir=app_dir, factory=True) == "made"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("shop_load.absent:app", "there is no module 'shop_load.absent'"),
        ("absent_shop.main:app", "there is no module 'absent_shop'"),
        ("shop_load.imports:app", "needs a module that is not here: No module named 'not_installed_here'"),
        ("shop_load.raises:app", "importing shop_load.raises failed: ValueError: bad value"),
        ("shop_load.leaves:app", "importing shop_load.leaves failed: SystemExit: 4"),
        ("shop_load.typo:app", "importing shop_load.typo failed: SyntaxError"),
        ("shop_load.good:mke", "module 'shop_load.good' has no 'mke'; did you mean 'make'?"),
        ("shop_load.good:api.ap", "object 'shop_load.good.api' has no 'ap'; did you mean 'app'?"),
        ("shop_load.good", "write module:attribute"),
        ("shop_load/good.py:app", "names a file; name the module: shop_load.good:app"),
        ("", "write module:attribute"),
    ],
)
def test_what_cannot_be_loaded_says_why(app_dir: Path, target: str, reason: str) -> None:
    with pytest.raises(BootError) as failed:
        load(target, app_dir=app_dir)
    assert reason in failed.value.reason
    assert "\n" not in failed.value.reason


def test_the_detail_is_the_applications_own_traceback(app_dir: Path) -> None:
    with pytest.raises(BootError) as failed:
        load("shop_load.raises:app", app_dir=app_dir)
    assert "raises.py" in failed.value.detail
    assert "raise ValueError('bad value')" in failed.value.detail
    assert "importlib" not in failed.value.detail
    assert "interface.py" not in failed.value.detail


def test_factories_that_fail_or_are_none_say_so(app_dir: Path) -> None:
    with pytest.raises(BootError, match="the factory failed: ValueError: no settings") as failed:
        load("shop_load.good:broken", app_dir=app_dir, factory=True)
    assert "raise ValueError('no settings')" in failed.value.detail
    with pytest.raises(BootError, match="leave out --factory"):
        load("shop_load.good:api.app", app_dir=app_dir, factory=True)
    with pytest.raises(BootError, match="async function"):
        load("shop_load.good:later", app_dir=app_dir, factory=True)


async def asgi_function(scope: Any, receive: Any, send: Any) -> None: ...


def wsgi_function(environ: Any, start_response: Any) -> list[bytes]:
    return []


async def asgi_loose(*args: Any) -> None: ...


def decorated(app: Any) -> Any:
    @functools.wraps(app)
    def inner(*args: Any) -> Any:
        return app(*args)

    return inner


class AsgiObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class WsgiObject:
    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        return []

    wsgi_app = __call__


class AsgiClass:
    def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...

    def __await__(self) -> Iterator[Any]:
        return iter(())


class WsgiClass:
    def __init__(self, environ: Any, start_response: Any) -> None: ...

    def __iter__(self) -> Iterator[bytes]:
        return iter(())


class Asgi2:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize(
    ("app", "interface"),
    [
        (asgi_function, "asgi3"),
        (asgi_loose, "asgi3"),
        (AsgiObject(), "asgi3"),
        (AsgiClass, "asgi3"),
        (AsgiObject().__call__, "asgi3"),
        (decorated(asgi_function), "asgi3"),
        (functools.partial(asgi_function), "asgi3"),
        (lambda scope, receive, send: asgi_function(scope, receive, send=send), "asgi3"),
        (FastAPI(), "asgi3"),
        (Starlette(), "asgi3"),
        (Service("x", asgi_function), "asgi3"),
        (WSGIBridge(wsgi_function), "asgi3"),
        (wsgi_function, "wsgi"),
        (WsgiObject(), "wsgi"),
        (WsgiObject().wsgi_app, "wsgi"),
        (WsgiClass, "wsgi"),
        (decorated(wsgi_function), "wsgi"),
        (functools.partial(wsgi_function), "wsgi"),
    ],
)
def test_the_way_an_application_is_called_tells_its_interface(app: Any, interface: str) -> None:
    assert detect(app) == interface


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        (Asgi2, "takes one argument, as ASGI 2 did"),
        (lambda: None, "takes no arguments; if it makes the application, say --factory"),
        ("text", "cannot be called"),
        (lambda *args: None, "say --interface asgi or wsgi"),
    ],
)
def test_what_is_no_application_is_refused_with_advice(app: Any, reason: str) -> None:
    with pytest.raises(BootError, match=reason):
        detect(app)


def test_a_choice_overrides_what_is_seen() -> None:
    assert detect(lambda *args: None, "wsgi") == "wsgi"
    assert detect(wsgi_function, "asgi3") == "asgi3"
    with pytest.raises(BootError, match="one of auto, asgi3, wsgi"):
        detect(wsgi_function, "asgi2")  # type: ignore[arg-type]
