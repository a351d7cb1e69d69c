"""The tables of the page on errors are those of the code."""

import asyncio
import builtins
import re
from typing import Any

import pytest

import holdfast
from docs.pages import DOCS, prose
from holdfast.core.codes import Code
from holdfast.core.errortable import DEFAULTS, MEMBERS_LIMIT, ErrorTable
from holdfast.core.failure import (
    CHARACTERS_LIMIT,
    DEPTH_LIMIT,
    DETAILS_LIMIT,
    MESSAGE_LIMIT,
    REASON_LIMIT,
    RETRY_AFTER_LIMIT,
)

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in prose(DOCS / "errors.md") if line.startswith("| ")
]
NAMED = [(name, row) for row in ROWS if row[-1].strip("`").isupper() for name in re.findall(r"`([\w.]+)`", row[0])]
"""Each exception of the page with its row: what it is, its code, its status, its reason."""


def named(name: str) -> Any:
    return getattr(asyncio if name.startswith("asyncio.") else holdfast, name.rpartition(".")[2], None) or getattr(
        builtins, name
    )


def test_each_code_is_on_the_page_with_its_numbers() -> None:
    listed = {row[0].strip("`"): (row[1], row[2]) for row in ROWS if len(row) == 4 and row[1].isdigit()}
    assert listed == {code.value: (str(code.http), str(code.grpc)) for code in Code}


@pytest.mark.parametrize(("name", "row"), NAMED, ids=[name for name, _ in NAMED])
def test_each_exception_means_what_the_page_says(name: str, row: list[str]) -> None:
    kind = named(name)
    failure = ErrorTable().failure_of(kind.__new__(kind))
    assert row[1:] == [f"`{failure.code.value}`", str(failure.status), f"`{failure.reason}`"]


def test_the_page_leaves_out_only_what_means_the_same_as_all_the_rest() -> None:
    left_out = set(DEFAULTS) - {named(name) for name, _ in NAMED}
    assert left_out == {holdfast.HoldfastError, holdfast.ConfigError}


def test_the_page_names_the_limits() -> None:
    text = " ".join(prose(DOCS / "errors.md"))
    for limit in (
        f"at most {REASON_LIMIT} characters",
        f"cut at {MESSAGE_LIMIT:,} characters",
        f"at {DETAILS_LIMIT} values, {DEPTH_LIMIT} levels and {CHARACTERS_LIMIT:,} characters",
        f"at most {MEMBERS_LIMIT:,} members",
    ):
        assert limit in text
    assert "At most a day is told" in text
    assert RETRY_AFTER_LIMIT == 24 * 60 * 60
