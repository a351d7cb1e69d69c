"""Tables that are plain text and Markdown at once."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.policies.baselines import BASELINES
from benchmarks.policies.contestant import HAS_NONE, Contestant, Mode
from benchmarks.policies.lineup import BASELINE, Cell
from benchmarks.policies.ours import Holdfast
from benchmarks.policies.race import Figures
from benchmarks.policies.rows import ROWS

NOTHING = "-"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column to the left, the others to the right."""
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(3, *(len(line[column]) for line in table)) for column in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_line(table[0], widths), _line(rule, widths), *(_line(line, widths) for line in table[1:])]
    return "\n".join(lines)


def baselines(figures: Figures, statistic: str) -> str:
    """The bare function, and the standard library."""
    found = [(one, figures.get(Cell(one.key, one.mode, BASELINE))) for one in BASELINES]
    return markdown(
        ("baseline", "ns"),
        [(one.title, _whole(getattr(figure, statistic))) for one, figure in found if figure is not None],
    )


def nanoseconds(figures: Figures, mode: Mode, names: Sequence[str], statistic: str) -> str:
    """Rows are policies, columns contestants."""
    values = _values(figures, mode, names, statistic)
    return _table(values, mode, names, _whole)


def ratios(figures: Figures, mode: Mode, names: Sequence[str], statistic: str) -> str:
    """How many times as long as Holdfast each of them takes."""
    values = _values(figures, mode, names, statistic)
    against = {
        cell: value / values[ours]
        for cell, value in values.items()
        if (ours := Cell(cell.row, mode, Holdfast.name)) in values
    }
    peers = [name for name in names if name != Holdfast.name]
    if not peers:
        return ""
    return _table(against, mode, peers, lambda ratio: f"{ratio:.1f}")


def reasons(absent: Mapping[Cell, str], missing: Mapping[str, str], contestants: Sequence[Contestant]) -> str:
    """What each contestant has, so that an empty place explains itself; any other reason in words of its own."""
    lines = [f"- {name}: not measured: {reason}" for name, reason in missing.items()]
    for contestant in contestants:
        has = [row.title for row in ROWS if hasattr(contestant, row.method) and row.refuse is None]
        others: dict[str, list[str]] = defaultdict(list)
        for cell, reason in absent.items():
            if cell.contestant == contestant.name and reason not in (contestant.other_mode, HAS_NONE):
                others[reason].append(_title(cell))
        notes = [contestant.other_mode, f"has {', '.join(has)}", *contestant.remarks]
        notes += [f"{reason}: {', '.join(dict.fromkeys(titles))}" for reason, titles in others.items()]
        lines.append(f"- {contestant.name}: {'; '.join(filter(None, notes))}")
    return "\n".join(lines)


def _title(cell: Cell) -> str:
    return next(row.title for row in ROWS if row.key == cell.row)


def _values(figures: Figures, mode: Mode, names: Sequence[str], statistic: str) -> dict[Cell, float]:
    return {
        cell: getattr(figure, statistic)
        for cell, figure in figures.items()
        if cell.mode is mode and cell.contestant in names
    }


def _table(values: Mapping[Cell, float], mode: Mode, names: Sequence[str], show: Callable[[float], str]) -> str:
    rows = [row for row in ROWS if any(Cell(row.key, mode, name) in values for name in names)]
    lines = []
    for row in rows:
        found = [values.get(Cell(row.key, mode, name)) for name in names]
        lines.append((row.title, *(NOTHING if value is None else show(value) for value in found)))
    return markdown((mode, *names), lines) if lines else ""


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"
