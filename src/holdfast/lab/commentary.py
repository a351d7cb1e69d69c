"""What supervisors report, in words."""

import re
from typing import Final

from holdfast.lab.link import Happening

_FRAME: Final = re.compile(r'File "(?:.*/)?(?P<file>[^"/]+)", line (?P<line>\d+) in (?P<name>\S+)')


def narrate(service: str, happening: Happening) -> str:
    """One line about the event; empty when it is not worth one."""
    worker = f"{service}: worker {happening.slot}"
    match happening.type:
        case "WorkerStarted":
            return f"{worker} of generation {happening.generation} ready after {happening.seconds:.1f} s"
        case "WorkerEnded":
            return "" if happening.expected else f"{worker} {happening.ending.partition(' (')[0]}"
        case "WorkerHung":
            place = _place(happening.stacks)
            return f"{worker} blocked for {happening.seconds:.1f} s{f' at {place}' if place else ''}"
        case "BootRefused":
            return f"{service}: generation {happening.generation} does not boot: {happening.reason}"
        case "GenerationReplaced":
            return f"{service}: generation {happening.generation} serves, the old workers drain"
        case "GenerationRefused":
            return f"{service}: generation {happening.generation} is refused"
        case "ConfigurationChanged":
            return f"{service}: configuration {happening.version} holds: {', '.join(happening.changes)}"
        case "ConfigurationRefused":
            return f"{service}: a configuration is refused, {happening.version} stays"
        case "SupervisorUpgraded":
            return f"{service}: the supervisor runs its new code, as the same process"
        case _:
            return ""


def _place(stacks: str) -> str:
    """The innermost frame of the main thread, which faulthandler writes last and innermost first."""
    main = stacks.rpartition("most recent call first")[2]
    frame = _FRAME.search(main)
    return f"{frame['file']}:{frame['line']} {frame['name']}" if frame else ""
