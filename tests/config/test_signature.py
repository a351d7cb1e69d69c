"""Whether files and directories are what they were."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from holdfast.config.signature import Signature, signature_of


def test_nothing_done_is_nothing_changed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    paths = [tmp_path / "a", tmp_path, tmp_path / "absent"]
    assert signature_of(paths) == signature_of(paths)


def test_a_file_that_is_written_replaced_comes_or_goes_is_another(tmp_path: Path) -> None:
    file = tmp_path / "a"
    seen = [signature_of([file])]
    file.write_text("1")
    seen.append(signature_of([file]))
    file.write_text("23")
    seen.append(signature_of([file]))
    stamp = file.stat()
    (tmp_path / "b").write_text("45")
    (tmp_path / "b").replace(file)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as large and as old as the one before
    seen.append(signature_of([file]))
    file.unlink()
    assert signature_of([file]) == seen[0]
    assert len(set(seen)) == 4


def test_a_file_in_a_directory_counts(tmp_path: Path) -> None:
    seen = [signature_of([tmp_path])]
    (tmp_path / "run.workers").write_text("1")
    seen.append(signature_of([tmp_path]))
    (tmp_path / "run.workers").write_text("12")
    seen.append(signature_of([tmp_path]))
    assert len(set(seen)) == 3


def test_the_swap_of_a_kubernetes_mount_is_seen(tmp_path: Path) -> None:
    for name in ("..one", "..two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.workers").write_text("1")
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "run.workers").symlink_to("..data/run.workers")
    before = signature_of([tmp_path])
    (tmp_path / "..new").symlink_to("..two")
    (tmp_path / "..new").replace(tmp_path / "..data")
    assert signature_of([tmp_path]) != before


def test_what_cannot_be_looked_at_has_a_signature_too(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("")
    paths: list[Path | str] = [tmp_path / "loop", tmp_path / "file" / "below", "nul\0"]
    assert signature_of(paths) == signature_of(paths)


def test_a_file_that_others_may_read_now_is_another(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("1")
    before = signature_of([file])
    assert seen_to_change(lambda: file.chmod(0o600 if file.stat().st_mode & 0o044 else 0o644), file) != before


def test_a_file_that_is_as_large_and_as_old_as_before_is_another_when_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("1")
    stamp = file.stat()

    def write() -> None:
        file.write_text("2")
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    before = signature_of([file])
    assert seen_to_change(write, file) != before


def seen_to_change(change: Callable[[], None], file: Path) -> Signature:
    """The signature after ``change``, which is repeated until it has another time: that comes from a coarse clock."""
    first, deadline = file.stat().st_ctime_ns, time.monotonic() + 30
    while file.stat().st_ctime_ns == first and time.monotonic() < deadline:
        change()
    return signature_of([file])
