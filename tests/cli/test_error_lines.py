"""A wrong command line or setting: one line that says where and what, and exit status 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from cli.configs import enter
from holdfast.cli.main import main


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["relaod"], "did you mean reload?"),
        (["main:app"], "holdfast run main:app"),
        (["run", "a:b", "--worker", "3"], "did you mean --workers?"),
        (["status", "--jsn"], "did you mean --json?"),
        (["run"], "APP: expected what to serve"),
        (["run", "main"], "APP: got 'main', expected module:attribute; for example main:app"),
        (["run", "src/main.py"], "name the module: src.main:app"),
        (["run", "a:b", "--workers", "two"], "--workers: got 'two', expected \"auto\" or a whole number"),
        (["run", "a:b", "--workers", "0"], "--workers: got 0"),
        (["run", "a:b", "--workers", "9999"], "a number from 1 to 1024"),
        (["run", "a:b", "--loop", "uvlop"], "did you mean uvloop?"),
        (["run", "a:b", "--bind", "nowhere"], "--bind: got 'nowhere'"),
        (["run", "a:b", "--bind", "127.0.0.1:1", "--bind", "::1:80"], "put the IPv6 address in brackets"),
        (["run", "a:b", "--admin", "/run/x"], "--admin: got '/run/x'"),
        (["run", "a:b", "--unix-mode", "9"], "--unix-mode: got '9', expected permissions as an octal number"),
        (["run", "a:b", "--unix-mode", "7777"], "--unix-mode: got '7777'"),
        (["run", "a:b", "--tls-key", "k.pem"], "--tls-key: got 'k.pem', expected a certificate beside it"),
        (["run", "a:b", "--tls-certificate", "c.pem"], "expected a file that exists"),
        (["run", "a:b", "--name", "a/b"], "--name: got 'a/b'"),
        (["run", "a:b", "--control", "x" * 120], "--control:"),
        (["run", "a:b", "--app-dir", "nowhere"], "--app-dir: got 'nowhere', expected a directory that exists"),
        (["run", "a:b", "--hang-timeout", "1s"], "--hang-timeout: got '1s', expected more than 1s"),
        (["run", "a:b", "--boot-timeout", "0s"], "--boot-timeout"),
        (["run", "a:b", "--probe", "ready"], "--probe: got 'ready', expected a path that begins with /"),
        (["run", "a:b", "--config", "none.toml"], "none.toml"),
        (["scale", "0"], "0 is not in the range"),
        (["reload", "--timeout", "soon"], "'soon' is not a duration"),
    ],
)
def test_a_wrong_word_gives_one_clear_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in complaint(capsys, *arguments)


def test_an_unknown_variable_is_refused_with_the_nearest_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_WORKRS", "2")
    assert "HOLDFAST_WORKRS: expected the name of a setting; did you mean HOLDFAST_WORKERS?" in complaint(
        capsys, "run", "a:b"
    )


@pytest.mark.parametrize("name", ["HOLDFAST_RUNTIME", "HOLDFAST_WORKER", "HOLDFAST_GENERATION"])
def test_variables_of_holdfast_itself_are_no_settings(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    assert "APP: expected what to serve" in complaint(capsys, "run")


def test_the_file_is_found_and_its_mistakes_have_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    Path("holdfast.toml").write_text('[run]\napp = "a:b"\nwrokers = 3\n')
    line = complaint(capsys, "run")
    assert "holdfast.toml:3 run.wrokers: expected the name of a setting; did you mean workers?" in line


def test_a_sound_value_that_makes_no_sense_has_the_place_of_its_layer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("service.toml").write_text('[run]\napp = "a:b"\nbind = ["80 80"]\n')
    assert "service.toml:3 run.bind: got '80 80'" in complaint(capsys, "run", "--config", "service.toml")
    monkeypatch.setenv("HOLDFAST_CONFIG", "service.toml")
    monkeypatch.setenv("HOLDFAST_BIND", "7 7")
    assert "HOLDFAST_BIND: got '7 7'" in complaint(capsys, "run")
    assert "--bind: got '6 6'" in complaint(capsys, "run", "--bind", "6 6")


def test_a_setting_outside_of_its_table_is_told_where_it_belongs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("holdfast.toml").write_text("workers = 3\n")
    assert "holdfast.toml:1 workers: expected the name of a setting; move it below [run]" in complaint(
        capsys, "run", "a:b"
    )


def test_all_mistakes_in_all_sections_are_told_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("holdfast.toml").write_text('[run]\nworkers = "x"\n[[routes]]\nmatch = "GET /"\nbulkhed = 3\n')
    monkeypatch.setenv("HOLDFAST__ADMISSION__TENANT", "a b")
    assert main(["run", "a:b", "--loop", "uvlop"]) == 2
    told = capsys.readouterr().err
    assert "holdfast: 4 mistakes\n" in told
    assert "--loop: got 'uvlop'" in told
    assert "holdfast.toml:2 run.workers: got 'x'" in told
    assert "holdfast.toml:5 routes[0].bulkhed: expected the name of a setting; did you mean bulkhead?" in told
    assert "HOLDFAST__ADMISSION__TENANT admission.tenant: got 'a b'" in told


def test_directories_are_layers_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    Path("one/run.workers").write_text("many\n")
    assert "one/run.workers run.workers: got 'many'" in complaint(capsys, "run", "a:b", "--config-dir", "one")
    monkeypatch.setenv("HOLDFAST_CONFIG_DIR", "one:two")
    Path("one/run.workers").write_text("2\n")
    Path("two/run.workers").write_text("0\n")
    assert "two/run.workers run.workers: got 0" in complaint(capsys, "run", "a:b")
    assert "none: expected a file that can be read" in complaint(capsys, "run", "a:b", "--config-dir", "none")


def test_a_variable_may_name_its_table_too_but_not_twice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST__RUN__WORKERS", "many")
    assert "HOLDFAST__RUN__WORKERS: got 'many'" in complaint(capsys, "run", "a:b")
    monkeypatch.setenv("HOLDFAST_WORKERS", "2")
    assert "HOLDFAST__RUN__WORKERS run.workers: expected one value; HOLDFAST_WORKERS gives another" in complaint(
        capsys, "run", "a:b"
    )


def test_addresses_are_not_looked_at_when_the_service_manager_passes_sockets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert "--unix-mode" in complaint(capsys, "run", "a:b", "--bind", "wrong", "--unix-mode", "9")


def test_a_certificate_whose_key_does_not_fit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    authority = trustme.CA()
    authority.issue_cert("localhost").cert_chain_pems[0].write_to_path("c.pem")
    authority.issue_cert("localhost").private_key_pem.write_to_path("k.pem")
    line = complaint(capsys, "run", "a:b", "--tls-certificate", "c.pem", "--tls-key", "k.pem")
    assert "--tls-certificate: got 'c.pem', expected a certificate chain with its matching key" in line


def test_without_a_running_supervisor_the_status_is_4(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert str(tmp_path) in complaint(capsys, "reload", status=4)
    assert "no supervisor of 'orders' is running" in complaint(capsys, "stop", "--name", "orders", status=4)
    assert "no supervisor answers at" in complaint(capsys, "status", "--control", "x.sock", status=4)


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    import msgspec

    import holdfast

    # An interpreter that sees holdfast and msgspec and nothing else.
    for package in (Path(holdfast.__file__).parent, Path(msgspec.__file__).parent):
        (tmp_path / package.name).symlink_to(package)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from holdfast.cli.main import main; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr == 'holdfast: the command line needs the extra "server": pip install "holdfast[server]"\n'


def test_help_and_status_import_nothing_heavy() -> None:
    code = (
        "import sys; from holdfast.cli.main import main; main(['--help']); main(['status', '--control', 'none']);"
        "print([name for name in ('uvicorn', 'httptools', 'uvloop', 'watchfiles', 'rich') if name in sys.modules])"
    )
    source = str(Path(__file__).parents[2] / "src")
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.stdout.splitlines()[-1] == "[]", ended.stdout + ended.stderr
