"""The standard streams, as every command can rely on them: there, and in UTF-8."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from queuectl.errors import QueuectlError


def speak_utf8() -> None:
    """Start again if the locale says another encoding: what a record holds is UTF-8.

    Else an é of a record would be another byte in its command's arguments, or none at all.
    """
    is_other = sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode
    if is_other and sys.executable:
        words = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(words[0], words)  # noqa: S606 - a shell would only read it anew


def have_streams() -> None:
    """Put /dev/null in the place of a standard stream that we were started without.

    An input that is not there cannot be read, so that nobody takes it for an empty one.
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
    """Standard output takes nothing more; what was asked may be done."""


class _Output(io.FileIO):
    """Standard output, whose errors are not those of a spool."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def _output_like(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream to the same place; what its encoding has no letters for comes as escapes."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors == "strict" else stream.errors,
        line_buffering=stream.line_buffering,
    )


def silence_stdout() -> None:
    """Keep the interpreter from flushing, at exit, what a closed pipe does not take."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
