"""Where the settings of ``run`` come from, and whether they make sense together, before anything starts."""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from holdfast.config.settings import Origin, load_with_origins
from holdfast.core.errors import ConfigError
from holdfast.supervisor.address import MAX_UNIX_PATH, parse_bind
from holdfast.supervisor.control import control_path
from holdfast.supervisor.master import MAX_SCALE
from holdfast.supervisor.settings import Settings
from holdfast.supervisor.worker import BEAT_INTERVAL

DEFAULT_FILE: Final = "holdfast.toml"
TABLE: Final = "run"
CONFIG_VARIABLE: Final = "HOLDFAST_CONFIG"
OTHER_VARIABLES: Final = (
    CONFIG_VARIABLE,
    "HOLDFAST_RESUME",
    "HOLDFAST_RUNTIME",
    "HOLDFAST_WORKER",
    "HOLDFAST_GENERATION",
)
"""Variables with the prefix that are not settings."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_MODES: Final = re.compile(r"(0o)?[0-7]{1,4}")


class SettingsSource:
    """Reads the settings, at the start and again for each reload: file and environment anew, with the same flags.

    ``directory`` is what relative paths start from: a name, not a place, so that a deploy may swap a symlink.
    ``config`` must exist when it is given. ``presets`` lie between the environment and the flags.
    """

    def __init__(
        self,
        flags: Mapping[str, object],
        *,
        config: str | None,
        directory: Path,
        presets: Mapping[str, object] | None = None,
    ) -> None:
        self.directory = directory
        self.config = config
        given = {name: value for name, value in flags.items() if value is not None and value != ()}
        self._flags = {**(presets or {}), **given}

    @property
    def file(self) -> Path | None:
        """The settings file, or None when none is given and none lies in the directory."""
        if self.config:
            return self.directory / self.config
        found = self.directory / DEFAULT_FILE
        return found if found.exists() else None

    def read(self) -> Settings:
        """The settings of now, checked. Raises ConfigError."""
        settings, origins = load_with_origins(
            Settings, table=TABLE, file=self.file, env=os.environ, flags=self._flags, ignore_env=OTHER_VARIABLES
        )
        _Check(settings, origins, self.file, self.directory).run()
        return settings

    def control(self, settings: Settings) -> Path:
        """Where the control socket of a service with these settings is."""
        return _control(settings, self.directory)


def _control(settings: Settings, directory: Path) -> Path:
    return directory / settings.control if settings.control else control_path(settings.service_name)


class _Check:
    """What one setting alone cannot tell. Every complaint names the layer that the value came from."""

    def __init__(self, settings: Settings, origins: Mapping[str, Origin], file: Path | None, directory: Path) -> None:
        self._settings = settings
        self._origins = origins
        self._file = file
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
        for peer in settings.trusted_proxies:
            try:
                ipaddress.ip_network(peer)
            except ValueError as exc:  # one that is not understood would silently be nobody
                raise self._wrong("trusted_proxies", "addresses and networks", str(exc), value=peer) from exc

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
        match self._origins[name]:
            case "flag":
                return ("APP" if name == "app" else "--" + name.replace("_", "-")), ""
            case "env":
                return f"HOLDFAST_{name.upper()}", ""
            case "file":
                return name, f"{self._file} [{TABLE}]"
            case _:
                return name, ""
