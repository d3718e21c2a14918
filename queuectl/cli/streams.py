"""Standard streams that every command can rely on: they are open, and in UTF-8."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from queuectl.errors import QueuectlError

# in `Context.meta` of a command that changes things, or that is run for its exit status: then it
# matters if not all of its output could be written
STATUS_TELLS = "queuectl.status-tells"


def speak_utf8() -> None:
    """Start Python again in UTF-8 mode if the locale has another encoding: records are in UTF-8.

    Otherwise an é in a record would become another byte in its command's arguments, or none at all.
    """
    is_other = sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode
    if is_other and sys.executable:
        words = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(words[0], words)  # noqa: S606 - a shell would only parse it again


def have_streams() -> None:
    """Open /dev/null in place of each standard stream that we were started without.

    A missing input is opened for writing only. Reading it fails, so nobody takes it for empty.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR if number else os.O_WRONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _output_like(sys.stdout)


class OutputError(QueuectlError):
    """Standard output takes nothing more; what was asked for may have been done."""


class _Output(io.FileIO):
    """Standard output with errors of its own, which are not taken for those of a spool."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def _output_like(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream to the same file; it escapes characters that its encoding does not have."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors == "strict" else stream.errors,
        line_buffering=stream.line_buffering,
    )


def silence_stdout() -> None:
    """Send standard output to /dev/null, so that the flush at exit meets no closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
