"""Where the settings of ``run`` come from, and whether they make sense together, before anything starts."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from holdfast.config.document import Document
from holdfast.config.layers import VARIABLES, read_document
from holdfast.config.mistakes import Place, all_of, each, printable
from holdfast.config.reading import read_text
from holdfast.config.schema import Schema
from holdfast.config.snapshot import Snapshot
from holdfast.core.errors import ConfigError
from holdfast.core.kinds import nearest
from holdfast.supervisor.address import MAX_UNIX_PATH, parse_bind
from holdfast.supervisor.configuration import make_schema
from holdfast.supervisor.control import control_path
from holdfast.supervisor.master import MAX_SCALE
from holdfast.supervisor.settings import Settings
from holdfast.supervisor.worker import BEAT_INTERVAL

DEFAULT_FILE: Final = "holdfast.toml"
TABLE: Final = "run"
CONFIG_VARIABLE: Final = "HOLDFAST_CONFIG"
DIRECTORIES_VARIABLE: Final = "HOLDFAST_CONFIG_DIR"
PREFIX: Final = "HOLDFAST_"
OTHER_VARIABLES: Final = (
    CONFIG_VARIABLE,
    DIRECTORIES_VARIABLE,
    "HOLDFAST_RESUME",
    "HOLDFAST_RUNTIME",
    "HOLDFAST_WORKER",
    "HOLDFAST_GENERATION",
)
"""Variables with the prefix that are not settings."""

NOWHERE: Final = "none"
"""The ``state_dir`` that keeps nothing."""
NAMES_SHOWN: Final = 12
"""How many valid names a message lists when none is near."""

_RUN: Final = Schema({TABLE: Settings})
_HEADER: Final = re.compile(r"\s*\[([A-Za-z0-9_-]+)\]")
_ENTRY: Final = re.compile(r"""\s*([A-Za-z0-9_-]+)\s*=\s*["']([^"'\\]*)["']""")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_MODES: Final = re.compile(r"(0o)?[0-7]{1,4}")


class SettingsSource:
    """Reads the layers of the configuration, at the start and again for each change, with the same flags.

    ``directory`` is what relative paths start from: a name, not a place, so that a deploy may swap a symlink.
    ``config`` and ``config_dirs`` must exist when they are given. ``presets`` lie between the environment and the
    flags. Methods may be called from any thread, and read files.
    """

    def __init__(
        self,
        flags: Mapping[str, object],
        *,
        config: str | None,
        directory: Path,
        presets: Mapping[str, object] | None = None,
        config_dirs: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.config = config
        self._found = self._kept = False
        self.directories = tuple(directory / name for name in config_dirs)
        self.schema = make_schema()
        given = {name: value for name, value in flags.items() if value is not None and value != ()}
        self._flags = {f"{TABLE}.{name}": value for name, value in {**(presets or {}), **given}.items()}
        self._aliases: dict[str, Place] = {variable: (TABLE, name) for variable, name in _variables().items()}
        self._options = {f"{TABLE}.{name}": _option(name) for name in Settings.__struct_fields__}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that may hold settings, whether they are there or not."""
        return (self.directory / (self.config or DEFAULT_FILE),)

    @property
    def file(self) -> Path | None:
        """The settings file, or None when none is given and none lies in the directory.

        One that holds and is gone is a mistake, as is a link that leads nowhere: nobody means to take all limits
        away with it, and a service that starts again without the file has none.
        """
        self._found = os.path.lexists(self.files[0])
        return self.files[0] if self.config or self._found or self._kept else None

    def keep(self) -> None:
        """What was read last holds now: if a settings file lay there, it has to stay."""
        self._kept = self._kept or self._found

    def document(self) -> Document:
        """All layers as they are now. Raises ``ConfigErrors`` with all that is wrong in them."""
        mistakes = list(_strangers())
        try:
            document = self._merged(_check_layer)
        except ConfigError as error:
            mistakes += each(error)
            with contextlib.suppress(ConfigError):  # what lies in other sections is told with it
                mistakes += self._mistakes_in(self._merged())
        if mistakes:
            told = {str(one): one for one in map(_plainly, mistakes)}
            raise all_of(told.values())
        return document

    def _merged(self, check: Callable[[Document], object] | None = None) -> Document:
        return read_document(
            files=() if self.file is None else (self.file,),
            directories=self.directories,
            env=os.environ,
            flags=self._flags,
            aliases=self._aliases,
            options=self._options,
            check=check,
        )

    def _mistakes_in(self, document: Document) -> tuple[ConfigError, ...]:
        try:
            self.schema.read(document)
        except ConfigError as error:
            return each(error)
        return ()

    def overlay(self) -> Document:
        """The variables and flags alone. Raises ``ConfigErrors``."""
        mistakes = list(_strangers())
        if mistakes:
            raise all_of(mistakes)
        return read_document(env=os.environ, flags=self._flags, aliases=self._aliases, options=self._options)

    def read(self) -> Settings:
        """The settings of now, checked. Raises ``ConfigErrors``, for all sections."""
        return self.settings(self.document())

    def settings(self, document: Document) -> Settings:
        """Those that ``document`` holds, checked. Raises ``ConfigErrors``, for all sections."""
        try:
            snapshot = self.schema.read(document)
        except ConfigError as error:
            raise all_of(map(_plainly, each(error))) from None
        self.check(snapshot)
        settings: Settings = snapshot.run
        return settings

    def check(self, snapshot: Snapshot) -> None:
        """Raise ``ConfigError`` for settings that are sound by themselves and make no sense together."""
        _Check(snapshot.run, snapshot.document, self.directory).run()

    def control(self, settings: Settings) -> Path:
        """Where the control socket of a service with these settings is."""
        return _control(settings, self.directory)

    def state(self, settings: Settings | None) -> Path | None:
        """Where the history of a service is kept; None for nowhere. Without settings, by what can be guessed of them:
        when they cannot be read, the history is what is needed."""
        if settings is None:
            settings = self._guessed()
        return state_directory(settings, self.directory)

    def _guessed(self) -> Settings:
        texts = dict[str, str]()
        with contextlib.suppress(ConfigError):
            for table, name, text in _entries(read_text(self.files[0])):
                if table == TABLE:
                    texts[name] = text
        texts.update({name: os.environ[variable] for variable, name in _variables().items() if variable in os.environ})
        texts.update({name.removeprefix(f"{TABLE}."): str(value) for name, value in self._flags.items()})
        app, name, state_dir = (texts.get(key, "") for key in ("app", "name", "state_dir"))
        return Settings(app=app, name=name, state_dir=state_dir)


def _check_layer(layer: Document) -> None:
    """Raise ``ConfigErrors`` for settings of ``[run]`` that are wrong, even where a flag lies over them."""
    if TABLE in layer.values:
        _RUN.read(Document({TABLE: layer.values[TABLE]}, layer.mark))


def _option(name: str) -> str:
    return "APP" if name == "app" else f"--{name.replace('_', '-')}"


def _variables() -> dict[str, str]:
    return {f"HOLDFAST_{name.upper()}": name for name in Settings.__struct_fields__}


def _strangers() -> Iterator[ConfigError]:
    """A complaint for each variable that begins as settings do and is none. Its value may be a secret."""
    known = _variables()
    for variable in sorted(os.environ):
        short = variable.startswith(PREFIX) and not variable.startswith(VARIABLES)
        if short and variable not in known and variable not in OTHER_VARIABLES:
            # Compared without what all have in common, which makes all alike.
            near = nearest(variable.removeprefix(PREFIX).lower(), known.values())
            shown = ", ".join(sorted(known)[:NAMES_SHOWN])
            hint = f"did you mean {PREFIX}{near.upper()}?" if near else f"there are {shown}, ..."
            yield ConfigError(printable(variable), None, "the name of a setting", hint=hint)


def _plainly(error: ConfigError) -> ConfigError:
    """``error`` without the path in the document where the option or the variable says it already."""
    if error.source.startswith(("--", "APP", PREFIX)) and error.path.startswith(f"{TABLE}."):
        return ConfigError(error.source, error.value, error.expected, hint=error.hint)
    if error.path.count(".") == 0 and error.path in Settings.__struct_fields__:
        hint = f"move it below [{TABLE}]"
        return ConfigError(error.path, error.value, error.expected, error.source, hint)
    return error


def _entries(text: str) -> Iterator[tuple[str, str, str]]:
    """Table, name and text of the entries that are plain text, of TOML that may be broken elsewhere."""
    table = ""
    for line in text.splitlines():
        if found := _HEADER.match(line):
            table = found[1]
        elif found := _ENTRY.match(line):
            yield table, found[1], found[2]


def state_directory(settings: Settings, directory: Path) -> Path | None:
    """Where a service keeps the history of its configuration; None for nowhere.

    The setting ``state_dir``; else what systemd gives the unit (``StateDirectory=``); else below the user's.
    """
    if settings.state_dir:
        return None if settings.state_dir == NOWHERE else directory / settings.state_dir
    if given := os.environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(given) / "holdfast"
    home = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:  # nobody's home
        return None
    return base / "holdfast" / settings.service_name


def _control(settings: Settings, directory: Path) -> Path:
    return directory / settings.control if settings.control else control_path(settings.service_name)


class _Check:
    """What one setting alone cannot tell. Every complaint names the layer that the value came from."""

    def __init__(self, settings: Settings, document: Document, directory: Path) -> None:
        self._settings = settings
        self._document = document
        self._directory = directory

    def run(self) -> None:
        self._app()
        self._name()
        self._addresses()
        self._tls()
        self._numbers()

    def _app(self) -> None:
        settings = self._settings
        if not settings.app:
            raise ConfigError(
                "APP",
                None,
                "what to serve, as module:attribute",
                hint=f"give it as the argument, as app in [{TABLE}] of {DEFAULT_FILE}, or as HOLDFAST_APP",
            )
        module, _, attribute = settings.app.partition(":")
        if module.endswith(".py") or "/" in module:
            dotted = module.removesuffix(".py").strip("./").replace("/", ".")
            raise self._wrong("app", "module:attribute", f"name the module: {dotted}:{attribute or 'app'}")
        if not module or not attribute or ":" in attribute:
            raise self._wrong("app", "module:attribute", f"for example {module or 'main'}:app")
        if not (self._directory / settings.app_dir).is_dir():
            raise self._wrong("app_dir", "a directory that exists")

    def _name(self) -> None:
        name = self._settings.service_name
        if _NAME.fullmatch(name) is None:
            raise self._wrong("name", "at most 64 letters, digits, and . _ - in between", "set --name", value=name)
        path = _control(self._settings, self._directory)
        if len(os.fsencode(path)) > MAX_UNIX_PATH:
            raise self._wrong(
                "control",
                f"a path of at most {MAX_UNIX_PATH} bytes, the system's limit for sockets",
                "set --control, or HOLDFAST_RUNTIME to a shorter directory",
                value=str(path),
            )

    def _addresses(self) -> None:
        settings = self._settings
        from_manager = os.environ.get("LISTEN_FDS") and os.environ.get("LISTEN_PID") == str(os.getpid())
        if not from_manager:
            if not settings.bind:
                raise self._wrong("bind", "at least one address", value=None)
            for text in settings.bind:
                parse_bind(text, *self._place("bind"))
        if settings.admin:
            parse_bind(settings.admin, *self._place("admin"))
        if _MODES.fullmatch(settings.unix_mode) is None or int(settings.unix_mode, 8) > 0o777:
            raise self._wrong("unix_mode", "permissions as an octal number", "write 660, for example")

    def _tls(self) -> None:
        settings = self._settings
        if not settings.tls_certificate:
            for name in ("tls_key", "tls_client_ca"):
                if getattr(settings, name):
                    hint = f"add tls_certificate, or leave {name} out"
                    raise self._wrong(name, "a certificate beside it", hint)
            return
        from holdfast.server.http.tls import TlsSettings, make_context

        for name in ("tls_certificate", "tls_key", "tls_client_ca"):
            path = getattr(settings, name)
            if path and not (self._directory / path).is_file():
                raise self._wrong(name, "a file that exists")
        made = TlsSettings(
            certificate=self._directory / settings.tls_certificate,
            key=self._directory / settings.tls_key if settings.tls_key else None,
            client_ca=self._directory / settings.tls_client_ca if settings.tls_client_ca else None,
        )
        try:
            make_context(made)
        except ConfigError as exc:
            raise self._wrong("tls_certificate", exc.expected) from exc

    def _numbers(self) -> None:
        settings = self._settings
        if settings.workers != "auto" and not 1 <= settings.workers <= MAX_SCALE:
            raise self._wrong("workers", f"auto, or a number from 1 to {MAX_SCALE}")
        if settings.boot_timeout <= 0:
            raise self._wrong("boot_timeout", "more than 0s", value=str(settings.boot_timeout))
        if settings.hang_timeout <= BEAT_INTERVAL:
            hint = "a worker gives a sign of life that often"
            raise self._wrong("hang_timeout", f"more than {BEAT_INTERVAL:g}s", hint, value=str(settings.hang_timeout))
        if settings.probe and not settings.probe.startswith("/"):
            raise self._wrong("probe", "a path that begins with /")
        if settings.root_path and not settings.root_path.startswith("/"):
            raise self._wrong("root_path", "a path that begins with /")

    def _wrong(self, name: str, expected: str, hint: str = "", *, value: object = ...) -> ConfigError:
        path, source = self._place(name)
        shown = getattr(self._settings, name) if value is ... else value
        return ConfigError(path, shown, expected, source, hint)

    def _place(self, name: str) -> tuple[str, str]:
        origin = self._document.origin((TABLE, name))
        if self._document.get((TABLE, name)) is None:
            return name, ""  # it is the default
        if origin.layer in ("flag", "env"):
            return origin.place, ""
        return f"{TABLE}.{name}", str(origin)
