"""What the pages say about settings is what the code has."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.pages import PAGES, ROOT, Block, all_blocks, prose
from holdfast.cli.checking import check_all
from holdfast.config.layers import from_file
from holdfast.core.fields import fields_of
from holdfast.supervisor.configuration import make_schema
from holdfast.supervisor.settings import Settings

GENERATOR = ROOT / "scripts" / "settings-table"
_ROW = re.compile(r"^\| `--([a-z-]+)` \| (.+?) \|")


def test_the_settings_table_is_up_to_date() -> None:
    made = subprocess.run([sys.executable, GENERATOR], capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "command-line.md").read_text()
    assert made.strip() in page, "run scripts/settings-table --write"


def test_the_settings_table_has_every_setting() -> None:
    made = subprocess.run([sys.executable, GENERATOR], capture_output=True, text=True, check=True).stdout
    listed = {match[1].replace("-", "_") for line in made.splitlines() if (match := _ROW.match(line))}
    assert listed == {field.name for field in fields_of(Settings)} - {"app"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_defaults_in_the_pages_tables_are_the_defaults(page: Path) -> None:
    made = subprocess.run([sys.executable, GENERATOR], capture_output=True, text=True, check=True).stdout
    true = {match[1]: match[2] for line in made.splitlines() if (match := _ROW.match(line))}
    wrong = {}
    for line in prose(page):
        match = _ROW.match(line)
        if match and true.get(match[1]) != match[2]:
            wrong[match[1]] = match[2], true.get(match[1])
    assert not wrong


@pytest.mark.parametrize("block", all_blocks("toml"), ids=lambda block: block.place)
def test_each_settings_file_in_the_pages_is_valid(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "holdfast.toml"
    file.write_text(block.text)
    check_all(make_schema(), from_file(file), secrets=False)
