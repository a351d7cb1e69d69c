import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.sections import NO_ENV, SCHEMA, document, values
from holdfast.config.diff import changes
from holdfast.config.document import Document, merged
from holdfast.config.history import KEPT, WHO_LIMIT, WHY_LIMIT, WORDS_LIMIT, History, replace_file, start_document
from holdfast.config.layers import from_environment
from holdfast.config.mistakes import ConfigErrors
from holdfast.config.snapshot import Snapshot
from holdfast.core.clock import WALL_OFFSET, VirtualClock
from holdfast.core.errors import ConfigError

WORD = "hunter2-correct-horse"
MEMORY = Path("/dev/shm")  # a file system in memory, where there is one


def snapshot(version: int, given_document: Document | None = None, **env: str) -> Snapshot:
    return SCHEMA.read(given_document or values(routes=[{"match": f"r{version}"}]), version=version, env=env)


def apply(history: History, version: int, given_document: Document | None = None) -> Snapshot:
    taken = snapshot(version, given_document)
    history.applied(taken, changes(Document(), taken, SCHEMA), at=float(version), who="ann", why="because")
    return taken


def everything(directory: Path) -> str:
    return "\n".join(path.read_text("latin-1") for path in sorted(directory.rglob("*")) if path.is_file())


def test_what_was_written_is_there_again(tmp_path: Path) -> None:
    history = History(tmp_path / "state" / "history")
    apply(history, 1)
    history.refused(ConfigError("a", 1, "b"), version=1, at=2.0, who="bob", why="")
    apply(history, 2)
    states = [history.unwritten, history.write(), history.unwritten]
    assert states == [True, True, False]
    again = History(tmp_path / "state" / "history")
    assert again.entries == history.entries
    assert [(entry.version, entry.verdict) for entry in again.entries] == [
        (1, "applied"),
        (1, "refused"),
        (2, "applied"),
    ]
    assert again.entries[1].errors == ("a: got 1, expected b",)
    assert again.version == 2
    assert again.key == history.key
    assert again.document(1).values == {"routes": [{"match": "r1"}]}
    assert again.last_good is not None
    assert again.last_good[1].values == {"routes": [{"match": "r2"}]}
    assert (again.trouble, again.damaged) == ("", 0)


def test_a_history_without_a_directory_is_kept_in_memory() -> None:
    history = History()
    apply(history, 1)
    assert not history.unwritten
    assert history.write()
    assert history.document(1).values == {"routes": [{"match": "r1"}]}


def test_the_number_of_entries_and_documents_is_bounded(tmp_path: Path) -> None:
    history = History(tmp_path, keep=3)
    for version in range(1, 8):
        apply(history, version)
        history.write()
    for again in (history, History(tmp_path, keep=3)):
        assert [entry.version for entry in again.entries] == [5, 6, 7]
        assert again.versions() == [5, 6, 7]
        with pytest.raises(ConfigError, match="there are 5, 6, 7"):
            again.document(4)
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == ["5.json", "6.json", "7.json"]
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 3
    assert KEPT >= 3
    with pytest.raises(ValueError, match="at least 1"):
        History(keep=0)


def test_documents_are_bounded_though_the_disk_fails(tmp_path: Path) -> None:
    (tmp_path / "versions").write_text("a file in the way")
    history = History(tmp_path, keep=3)
    for version in range(1, 10):
        apply(history, version)
        assert not history.write()
    assert len(history._unwritten) == 3


def test_texts_of_an_entry_are_bounded() -> None:
    history = History()
    history.refused(ConfigError("a", None, "x" * 9999), version=0, at=0, who="w" * 9999, why="y" * 9999)
    entry = history.entries[0]
    assert (len(entry.who), len(entry.why), len(entry.errors[0])) == (WHO_LIMIT, WHY_LIMIT, WORDS_LIMIT)


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    directory = tmp_path / "history"
    history = History(directory)
    apply(history, 1)
    history.write()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*") if path.is_file()} == {0o600}


def test_secrets_stay_out_of_the_history(tmp_path: Path) -> None:
    history = History(tmp_path)
    env = from_environment({"HOLDFAST__SETTINGS__DATABASE": WORD})
    taken = snapshot(1, merged(values(settings={}), env))
    history.applied(taken, changes(Document(), taken, SCHEMA), at=1.0, who="a", why="")
    history.write()
    assert WORD not in everything(tmp_path)
    restored = SCHEMA.read(History(tmp_path).document(1), env={"HOLDFAST__SETTINGS__DATABASE": WORD})
    assert restored.settings.database.reveal() == WORD


def test_a_secret_that_stands_in_the_file_itself_is_only_in_the_last_good_document(tmp_path: Path) -> None:
    history = History(tmp_path)
    plain = values(settings={"database": WORD})
    apply(history, 1, plain)
    history.write()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and WORD in path.read_text("latin-1")] == [
        "last-good.json"
    ]
    assert history.document(1) == plain
    again = History(tmp_path)
    assert again.last_good is not None
    assert again.last_good[1] == plain
    with pytest.raises(ConfigError, match="secrets in it, which are not kept on disk"):
        again.document(1)


def test_torn_and_corrupt_lines_are_left_out(tmp_path: Path) -> None:
    history = History(tmp_path)
    for version in (1, 2, 3):
        apply(history, version)
    history.write()
    file = tmp_path / "history.jsonl"
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0], b'{"version": "x"}', b"\xff\xfe", lines[1], lines[2][:20]]))
    again = History(tmp_path)
    assert [entry.version for entry in again.entries] == [1, 2]
    assert again.damaged == 3
    assert again.version == 3


def test_no_number_is_given_twice_when_parts_are_lost(tmp_path: Path) -> None:
    for lost in (["history.jsonl"], ["history.jsonl", "last-good.json"], ["last-good.json", "versions/3.json"]):
        directory = tmp_path / lost[-1].replace("/", "-")
        history = History(directory)
        for version in (1, 2, 3):
            apply(history, version)
        history.write()
        for name in lost:
            (directory / name).unlink()
        assert History(directory).version == 3


def test_a_document_that_was_tampered_with_is_not_used(tmp_path: Path) -> None:
    history = History(tmp_path)
    apply(history, 1)
    history.write()
    for name in ("last-good.json", "versions/1.json"):
        file = tmp_path / name
        file.write_text(file.read_text().replace("r1", "r9"))
    again = History(tmp_path)
    assert again.last_good is None
    with pytest.raises(ConfigError, match="a version that is kept"):
        again.document(1)
    assert again.damaged == 2


@given(name=st.sampled_from(["history.jsonl", "last-good.json", "versions/1.json", "key"]), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_damage_to_a_file_is_survived(name: str, data: Any) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        damage(Path(directory), name, data)


def damage(directory: Path, name: str, data: Any) -> None:
    history = History(directory)
    apply(history, 1)
    history.write()
    file = directory / name
    content = file.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    file.write_bytes(
        content[:start] + data.draw(st.binary(max_size=8)) + content[start + data.draw(st.integers(0, 8)) :]
    )
    again = History(directory)
    if again.last_good is not None:
        assert again.last_good[1].values == {"routes": [{"match": "r1"}]}
    apply(again, 2)
    assert again.write()
    assert History(directory).version >= 2


def test_a_disk_that_fails_costs_the_history_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = History(tmp_path)
    apply(history, 1)
    history.write()
    blocked = tmp_path / "versions"
    blocked.rename(tmp_path / "away")
    blocked.write_text("a file in the way")
    apply(history, 2)
    assert not history.write()
    assert "versions" in history.trouble
    assert history.unwritten
    assert not history.write()
    assert caplog.text.count("cannot be written") == 1
    assert history.document(2).values == {"routes": [{"match": "r2"}]}
    blocked.unlink()
    assert history.write()
    assert history.trouble == ""
    assert History(tmp_path).versions() == [1, 2]


def test_a_directory_that_cannot_be_made_is_trouble_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    history = History(tmp_path / "file" / "history")
    assert history.trouble
    apply(history, 1)
    assert not history.write()
    assert history.versions() == [1]


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    replace_file(file, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            replace_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_files_are_on_the_disk_before_they_have_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def note_fsync(file: int) -> None:
        steps.append("fsync directory" if stat.S_ISDIR(os.fstat(file).st_mode) else "fsync file")
        fsync(file)

    def note_rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_rename)
    replace_file(tmp_path / "a", b"x")
    assert steps == ["fsync file", "rename", "fsync directory"]


def test_a_symlink_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "a").symlink_to("target")
    replace_file(tmp_path / "a", b"x")
    assert (tmp_path / "target").read_text() == "precious"
    assert not (tmp_path / "a").is_symlink()


def test_a_bad_start_uses_the_last_good_document(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = History(tmp_path / "history")
    clock = VirtualClock()
    good = document('[[routes]]\nmatch = "a"', tmp_path)

    def start(text: str) -> Any:
        return start_document(lambda: document(text, tmp_path), SCHEMA, History(tmp_path / "history"), env=NO_ENV)

    with pytest.raises(ConfigErrors):
        start("[[routes]]")
    apply(history, 4, good)
    history.write()
    for text in ("[[routes]]", "routes = ="):
        found = start(text)
        assert found.document == good
        assert found.refused is not None
        assert "version 4, the last good one, is used" in found.reason
        assert found.reason in caplog.text
    fine = start('[[routes]]\nmatch = "b"')
    assert fine.document.values == {"routes": [{"match": "b"}]}
    assert (fine.refused, fine.reason) == (None, "")
    start_document(lambda: document("x", tmp_path), SCHEMA, history, env=NO_ENV, clock=clock)
    entry = history.entries[-1]
    assert (entry.verdict, entry.version, entry.at) == ("refused", 4, clock.now() + WALL_OFFSET)


def test_a_last_good_document_that_is_not_good_any_more_is_not_used(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    env = from_environment({"HOLDFAST__SETTINGS__DATABASE": WORD})
    apply(history, 1, env)
    history.write()
    with pytest.raises(ConfigErrors, match="routes"):
        start_document(lambda: values(routes=5), SCHEMA, History(tmp_path / "history"), env=NO_ENV)


def test_entries_are_json_lines(tmp_path: Path) -> None:
    history = History(tmp_path)
    apply(history, 1)
    history.write()
    (line,) = (tmp_path / "history.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "version": 1,
        "verdict": "applied",
        "at": 1.0,
        "who": "ann",
        "why": "because",
        "digest": history.entries[0].digest,
        "errors": [],
        "changes": [["routes", "<absent>", '[{"match": "r1"}]']],
    }
