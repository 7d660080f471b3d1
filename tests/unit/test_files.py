"""Files are read only if they are files, and only up to a size."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from exporter.files import MiB, read_file, read_text


def test_a_file_is_read_whole_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 10)
    assert read_file(path, 10) == b"x" * 10
    with pytest.raises(OSError, match="it is larger than 0 KiB"):
        read_file(path, 9)
    (tmp_path / "link").symlink_to(path)
    assert read_file(tmp_path / "link") == b"x" * 10


def test_a_large_file_is_named_by_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(2 * MiB + 1)  # takes no room
    with pytest.raises(OSError, match="it is larger than 2 MiB"):
        read_file(path, 2 * MiB)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/dev/zero", "/dev/urandom"])
def test_a_device_is_refused(path: str, stream: bool) -> None:
    with pytest.raises(OSError, match="it is not a regular file"):
        read_file(Path(path), 10, stream=stream)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Is a directory"):
        read_file(tmp_path)


def test_a_pipe_is_refused_without_waiting_for_its_writer_and_read_where_a_stream_will_do(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="it is not a regular file"):
        read_file(path)  # nobody writes: opening it would wait for ever
    writer = threading.Thread(target=path.write_bytes, args=("밥\r\n".encode(),))
    writer.start()
    assert read_text(path, stream=True) == "밥\r\n"
    writer.join()


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf{}")
    assert read_text(tmp_path / "a") == "{}"
