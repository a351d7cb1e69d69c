import sys
from pathlib import Path

import pytest

from holdfast.core.classname import checked, find_loaded, import_class
from holdfast.core.errors import ConfigError, RateLimited


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that is not loaded yet."""
    (tmp_path / "shop_errors.py").write_text(
        "class OutOfStock(Exception):\n    class Long(Exception):\n        pass\n\n\nPrice = float\n"
        "def __getattr__(name):\n    if name == 'Late':\n        return KeyError\n    raise AttributeError(name)\n"
    )
    (tmp_path / "shop_broken.py").write_text("raise RuntimeError('no database')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("shop_errors", "shop_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "shop_errors"


@pytest.mark.parametrize("name", ["a:B", "a.b:C.D", "KeyError", "ärger:Ärger", "_a:_B"])
def test_a_name_has_a_module_or_is_pythons_own(name: str) -> None:
    assert checked(name, "x") == name


def test_nothing_is_imported_to_find_a_class(shop: str) -> None:
    assert find_loaded(f"{shop}:OutOfStock") is None
    assert shop not in sys.modules
    found = import_class(f"{shop}:OutOfStock", "x")
    assert find_loaded(f"{shop}:OutOfStock") is found
    assert find_loaded(f"{shop}:OutOfStock.Long") is import_class(f"{shop}:OutOfStock.Long", "x")


def test_what_is_no_exception_is_not_found(shop: str) -> None:
    import_class(f"{shop}:OutOfStock", "x")
    for name in (f"{shop}:Price", f"{shop}:Nothing", f"{shop}:OutOfStock.Nothing", f"{shop}:Nothing.Long"):
        assert find_loaded(name) is None


def test_the_code_of_a_module_does_not_run_when_a_class_is_looked_for(shop: str) -> None:
    assert import_class(f"{shop}:Late", "x") is KeyError
    assert find_loaded(f"{shop}:Late") is None


def test_a_module_that_importing_has_left_empty_is_no_obstacle(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, shop, None)
    assert find_loaded(f"{shop}:OutOfStock") is None


def test_a_bare_name_is_one_of_pythons_own() -> None:
    assert find_loaded("TimeoutError") is TimeoutError
    assert import_class("TimeoutError", "x") is TimeoutError


def test_a_name_may_lead_over_a_lazy_package() -> None:
    assert import_class("holdfast:RateLimited", "x") is RateLimited


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{}:OutOfStok", "expected an exception class; shop_errors has no OutOfStok; did you mean OutOfStock?"),
        ("{}:OutOfStock.Log", "expected an exception class; OutOfStock has no Log; did you mean Long?"),
        ("{}:Zzz", "expected an exception class; shop_errors has no Zzz"),
        ("{}:Price", "expected an exception class; Price is a type"),
        ("{}x:OutOfStock", "expected a module shop_errorsx that can be imported; ModuleNotFoundError: No module named"),
        ("shop_broken:A", "expected a module shop_broken that can be imported; RuntimeError: no database"),
    ],
)
def test_a_class_that_cannot_be_had_is_a_config_error_that_names_it(shop: str, name: str, said: str) -> None:
    name = name.format(shop)
    with pytest.raises(ConfigError) as caught:
        import_class(name, "holdfast.toml [errors]")
    assert str(caught.value).startswith(f'holdfast.toml [errors] "{name}": {said}')
