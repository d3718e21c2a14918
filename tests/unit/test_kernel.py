from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from queuectl import kernel
from queuectl.kernel import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the file that is read in place of /etc/machine-id, as outside of containers."""
    monkeypatch.setattr(kernel, "_MACHINE_ID", str(tmp_path / "machine-id"))
    monkeypatch.setattr(processes, "pid_namespace", lambda: processes.INITIAL_NAMESPACE)
    kernel.machine_id.cache_clear()
    yield tmp_path / "machine-id"
    kernel.machine_id.cache_clear()


def test_a_machine_is_named_by_its_id(file: Path) -> None:
    file.write_text(f"{ID}\n")
    assert kernel.machine_id() == ID


@pytest.mark.parametrize("text", [b"", b"uninitialized\n", b"\xff" * 32, ID[1:].encode()])
def test_what_is_no_id_names_no_machine(file: Path, text: bytes) -> None:
    file.write_bytes(text)
    assert kernel.machine_id() == ""


@pytest.mark.parametrize("put", [lambda _path: None, os.mkdir, lambda path: os.symlink(path, path)])
def test_where_nothing_can_be_read_no_machine_is_named(
    file: Path, put: Callable[[Path], None]
) -> None:
    put(file)
    assert kernel.machine_id() == ""


def test_in_a_container_the_id_is_that_of_an_image(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(ID)
    monkeypatch.setattr(processes, "pid_namespace", lambda: "pid:[4026532000]")
    assert kernel.machine_id() == ""
