"""The ``holdfast`` command: finds the subcommand, and turns every failure into one line and an exit status."""

import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from holdfast.cli import exitcode
from holdfast.core.errors import BootError, ConfigError, HoldfastError

if TYPE_CHECKING:
    import click

COMMANDS: Final = {
    "run": ("holdfast.cli.run:run", "Serve an app, and lose no request."),
    "dev": ("holdfast.cli.dev:dev", "Serve an app while you write it: reloads when a file changes."),
    "reload": ("holdfast.cli.commands:reload", "Replace the workers by new ones with the code of now."),
    "upgrade": ("holdfast.cli.commands:upgrade", "Replace the supervisor's own code, then reload."),
    "drain": ("holdfast.cli.commands:drain", "Leave the balancer, and keep answering."),
    "scale": ("holdfast.cli.commands:scale", "Change the number of workers."),
    "stop": ("holdfast.cli.commands:stop", "Finish what is in flight and end."),
    "status": ("holdfast.cli.status:status", "Show the workers and how they are."),
    "config": ("holdfast.cli.config:config", "Show, check and change the configuration."),
    "routes": ("holdfast.cli.routes:routes", "Show the routes, and which one a request takes."),
    "events": ("holdfast.cli.events:events", "Show what happened, and what happens."),
    "demo": ("holdfast.cli.demo:demo", "Watch a shop survive reloads, crashes and hangs."),
    "completion": ("holdfast.cli.completion:completion", "Print the completion script of a shell."),
}
"""Each command, where it is, and its line in the list."""

MISSING: Final = 'the command line needs the extra "server": pip install "holdfast[server]"'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (default: the program's own) name. Returns the exit status."""
    if sys.platform == "win32":
        return _tell(exitcode.FAILED, "the server needs Linux or macOS; on Windows the library alone can be used")
    if any(importlib.util.find_spec(name) is None for name in ("click", "rich")):
        return _tell(exitcode.FAILED, MISSING)
    import click

    try:
        status = group().main(args=arguments, prog_name="holdfast", standalone_mode=False)
    except click.Abort:
        return exitcode.INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as exc:
        print(exc.format_message())
        return exitcode.USAGE
    except click.ClickException as exc:
        return _tell(exitcode.USAGE, _usage(exc))
    except exitcode.CommandError as exc:
        return _tell(exc.status, exc.reason, exc.detail)
    except ConfigError as exc:
        return _tell(exitcode.USAGE, str(exc))
    except BootError as exc:
        return _tell(exitcode.START, exc.reason, exc.detail)
    except HoldfastError as exc:
        return _tell(exitcode.FAILED, str(exc))
    return status if isinstance(status, int) else exitcode.DONE


def group() -> "click.Group":
    """The group of all commands. Needs click."""
    import click

    import holdfast
    from holdfast.cli.lazy import LazyGroup

    meanings = "\n".join(f"  {status}  {meaning}" for status, meaning in exitcode.MEANING.items())
    made = LazyGroup(
        "holdfast",
        table=COMMANDS,
        help="Keeps Python services answering: through deploys, crashes, hangs and ten times the traffic.",
        epilog=f"\b\nExit status:\n{meanings}",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    return click.version_option(holdfast.__version__, prog_name="holdfast")(made)


def _usage(exc: "click.ClickException") -> str:
    """Click's message as one line, with the nearest name."""
    import click

    from holdfast.core.kinds import nearest

    context = getattr(exc, "ctx", None)
    place = f"{context.command_path}: " if context is not None and context.parent is not None else ""
    if isinstance(exc, click.NoSuchOption) and context is not None:
        known = [name for one in context.command.params for name in (*one.opts, *one.secondary_opts)]
        near = nearest(exc.option_name, [name for name in known if name.startswith("--")])
        hint = f"did you mean {near}?" if near else f"see {context.command_path} --help"
        return f"{place}no such option {exc.option_name}; {hint}"
    return place + " ".join(exc.format_message().split())


def _tell(status: int, reason: str, detail: str = "") -> int:
    text = f"{reason}\n{detail.rstrip()}" if detail.strip() else reason
    print(text if text.startswith("holdfast") else f"holdfast: {text}", file=sys.stderr)
    return status
