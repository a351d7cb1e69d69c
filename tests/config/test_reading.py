import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.config.reading import ENTRIES_LIMIT, FILE_LIMIT, TRIES, read_directory, read_file, read_text
from holdfast.core.errors import ConfigError


def refusal(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


class Mount:
    """A directory as the kubelet makes it: files are symlinks into ..data, which is swapped."""

    def __init__(self, path: Path, names: int = 5) -> None:
        self.path = path
        self.names = [f"section.key{n}" for n in range(names)]
        self.version = 0
        path.mkdir()
        for name in self.names:
            (path / name).symlink_to(f"..data/{name}")
        self.swap()

    def swap(self) -> None:
        """Write the next version beside the present one, turn ..data to it, and remove the old one."""
        old = self.path / f"..{self.version}"
        self.version += 1
        new = self.path / f"..{self.version}"
        new.mkdir()
        for name in self.names:
            (new / name).write_text(f"{self.version}")
        temporary = self.path / "..data_tmp"
        temporary.symlink_to(new.name)
        temporary.rename(self.path / "..data")
        shutil.rmtree(old, ignore_errors=True)


@pytest.fixture
def after_reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Does something right after each read of the files that are tested; the reads are real."""

    def start(act: Callable[[int], None]) -> None:
        real = os.read
        count = 0

        def read(file: int, size: int) -> bytes:
            nonlocal count
            content = real(file, size)
            count += 1
            act(count)
            return content

        monkeypatch.setattr(os, "read", read)

    return start


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"\xef\xbb\xbf" + "ä".encode() * 100_000)
    assert read_file(file) == file.read_bytes()
    assert read_text(file) == "ä" * 100_000


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "a pipe" in refusal(read_file, tmp_path / "fifo")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "Is a directory" in refusal(read_file, tmp_path)
    assert "No such file" in refusal(read_file, tmp_path / "none")
    assert "a device" in refusal(read_file, Path("/dev/zero"))
    assert "the name of a file" in refusal(read_file, tmp_path / "a\0b")
    (tmp_path / "loop").symlink_to("loop")
    assert "symbolic links" in refusal(read_file, tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert "expected a file that can be read" in refusal(read_file, tmp_path / "s")


def test_a_file_has_a_size_limit(tmp_path: Path) -> None:
    file = tmp_path / "big"
    file.write_bytes(b"#" * FILE_LIMIT)
    assert len(read_file(file)) == FILE_LIMIT
    file.write_bytes(b"#" * (FILE_LIMIT + 1))
    assert f"at most {FILE_LIMIT} bytes" in refusal(read_file, file)


def test_a_file_that_was_written_meanwhile_is_read_again(
    tmp_path: Path, after_reads: Callable[[Callable[[int], None]], None]
) -> None:
    file = tmp_path / "a"
    file.write_text("old")

    def act(count: int) -> None:
        if count == 1:
            file.write_text("newer")

    after_reads(act)
    assert read_file(file) == b"newer"


def test_a_file_that_grows_without_end_is_refused(
    tmp_path: Path, after_reads: Callable[[Callable[[int], None]], None]
) -> None:
    file = tmp_path / "a"
    file.write_text("x")
    reads = []

    def grow(count: int) -> None:
        reads.append(count)
        with file.open("ab") as stream:
            stream.write(b"#" * 40_000)

    after_reads(grow)
    text = refusal(read_file, file)
    assert "nobody writes to" in text or "at most" in text
    assert len(reads) < 200


def test_a_mount_is_read_from_one_version_while_it_is_swapped(
    tmp_path: Path, after_reads: Callable[[Callable[[int], None]], None]
) -> None:
    for moment in range(1, 11):
        mount = Mount(tmp_path / f"m{moment}")
        after_reads(lambda count, moment=moment, mount=mount: mount.swap() if count == moment else None)  # type: ignore[misc]
        found = read_directory(mount.path)
        assert list(found) == mount.names
        assert set(found.values()) == {b"2"}, moment


def test_a_mount_that_is_swapped_all_the_time_is_refused(
    tmp_path: Path, after_reads: Callable[[Callable[[int], None]], None]
) -> None:
    mount = Mount(tmp_path / "m")
    after_reads(lambda _: mount.swap())
    assert "does not change all the time" in refusal(read_directory, mount.path)
    assert mount.version <= 2 + TRIES * 2 * len(mount.names)


def test_a_swap_in_another_thread_never_mixes_versions(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "m", names=10)
    stop = threading.Event()

    def swap() -> None:
        for _ in range(300):
            mount.swap()
        stop.set()

    swapper = threading.Thread(target=swap)
    swapper.start()
    read = 0
    while not stop.is_set() or not read:
        with contextlib.suppress(ConfigError):  # it may have been swapped too often meanwhile
            found = read_directory(mount.path)
            read += 1
            assert len(found) == 10
            assert len(set(found.values())) == 1
    swapper.join(30)
    assert read


def test_a_plain_directory_is_read_again_when_a_file_comes_or_goes(
    tmp_path: Path, after_reads: Callable[[Callable[[int], None]], None]
) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")

    def act(count: int) -> None:
        if count == 1:
            (tmp_path / "b").unlink()
            (tmp_path / "c").write_text("2")

    after_reads(act)
    assert read_directory(tmp_path) == {"a": b"1", "c": b"2"}


def test_hidden_files_leftovers_and_directories_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / ".hidden").write_text("2")
    (tmp_path / "a~").write_text("3")
    (tmp_path / "inner").mkdir()
    assert read_directory(tmp_path) == {"a": b"1"}


def test_a_directory_has_a_limit_of_files(tmp_path: Path) -> None:
    for number in range(ENTRIES_LIMIT):
        (tmp_path / f"n{number}").touch()
    assert len(read_directory(tmp_path)) == ENTRIES_LIMIT
    (tmp_path / ".one-more").touch()
    assert f"at most {ENTRIES_LIMIT} files" in refusal(read_directory, tmp_path)


def test_a_broken_directory_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to("nowhere")
    assert f"{tmp_path}/gone: expected a file that can be read; No such file" in refusal(read_directory, tmp_path)
    (tmp_path / "gone").unlink()
    os.mkfifo(tmp_path / "fifo")
    assert "a pipe" in refusal(read_directory, tmp_path)
    assert "No such file" in refusal(read_directory, tmp_path / "none")
    (tmp_path / "file").touch()
    assert "Not a directory" in refusal(read_directory, tmp_path / "file")
    loop = tmp_path / "loop"
    loop.mkdir()
    (loop / "..data").symlink_to("..data")
    assert "symbolic links" in refusal(read_directory, loop)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "m")
    (tmp_path / "bad").symlink_to("nowhere")
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(10):
        read_directory(mount.path)
        refusal(read_directory, tmp_path)
        refusal(read_file, tmp_path)
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_a_plain_directory_is_read_again_when_a_file_was_written_after_it_was_read(
    tmp_path: Path, after_reads: Callable[[Callable[[int], None]], None]
) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")

    def act(count: int) -> None:
        if count == 3:  # a has been read to its end
            (tmp_path / "a").write_text("22")
            (tmp_path / "c").write_text("22")

    after_reads(act)
    assert read_directory(tmp_path) == {"a": b"22", "b": b"1", "c": b"22"}


def test_a_plain_directory_that_changes_all_the_time_is_refused(
    tmp_path: Path, after_reads: Callable[[Callable[[int], None]], None]
) -> None:
    (tmp_path / "a").write_text("1")
    after_reads(lambda count: (tmp_path / f"n{count}").touch())
    assert "does not change all the time" in refusal(read_directory, tmp_path)
