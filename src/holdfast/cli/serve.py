"""What ``run`` and ``dev`` share: the place they start in, taking over from a predecessor, and the log."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from holdfast.cli.exitcode import FAILED, CommandError
from holdfast.core.errors import BootError

if TYPE_CHECKING:
    from holdfast.cli.settings import SettingsSource
    from holdfast.supervisor.beginning import Beginning
    from holdfast.supervisor.settings import Settings
    from holdfast.supervisor.upgrade import Resumed

ENGINE: Final = ("uvicorn", "httptools", "websockets")
"""What every worker imports."""


def demand(*modules: str) -> None:
    """Raise CommandError unless all of these are installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(FAILED, f'{missing[0]} is not installed: pip install "holdfast[server]"')


def take_over() -> "Resumed | None":
    """The state of the predecessor in this process, or None. Raises BootError when it cannot be read."""
    from holdfast.supervisor.upgrade import read_state

    return read_state(cast("dict[str, str]", os.environ))


def settle(resumed: "Resumed | None") -> Path:
    """The directory in which the service lives, by the name with which it was entered.

    A deploy may point that name elsewhere. The first start writes it down in PWD, as shells do; after a re-exec the
    directory is entered anew by it. Raises BootError when it is gone.
    """
    if resumed is not None:
        named = os.environ.get("PWD", ".")
        try:
            os.chdir(named)
        except OSError as exc:
            raise BootError(f"the service's directory {named} cannot be entered: {exc.strerror}") from exc
        return Path(named)
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise BootError("the current directory does not exist any more; enter it anew") from None
    named = os.environ.get("PWD", "")
    found = Path(named) if named and Path(named).is_absolute() and Path(named).exists() else here
    directory = found if found.samefile(here) else here
    os.environ["PWD"] = str(directory)
    return directory


def rehearse(resumed: "Resumed", settings: "Settings") -> None:
    """In the trial before an upgrade: raise BootError when this code must not take over with these settings."""
    resumed.check(settings)


def start(source: "SettingsSource", resumed: "Resumed | None") -> "Beginning":
    """What holds at first: what is read now, the last good configuration, or that of before a re-exec.

    In the trial before an upgrade, what is read now. Raises ConfigError.
    """
    from holdfast.supervisor.beginning import begin

    if resumed is not None and resumed.trial:
        rehearse(resumed, source.read())
    return begin(source, resumed)


def configure_log(settings: "Settings") -> None:
    """The supervisor's own log, on standard error."""
    from holdfast.telemetry.logs import configure

    configure(format=settings.log_format, level=settings.log_level, labels={"service": settings.service_name})


def arguments() -> list[str]:
    """With which a re-exec repeats this command."""
    return sys.argv[1:]
