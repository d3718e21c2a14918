"""The help texts that README.md quotes; `python -m tests.cli.quoted_help` quotes them anew."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support import ROOT, environment

# `$ queuectl ... -h` and the text below it, up to the next `$ ` or the end of the block of code
_QUOTED = re.compile(
    r"^\$ queuectl((?: [a-z-]+)*) -h\n(.*?)(?=^\$ |^```)", re.MULTILINE | re.DOTALL
)


def quoted_in(text: str) -> list[tuple[str, str]]:
    """Return the words of each command whose help a document quotes, and what it quotes."""
    return [(words.strip(), said) for words, said in _QUOTED.findall(text)]


def quoted_anew(text: str) -> str:
    """Return the document with what the program says now."""
    return _QUOTED.sub(lambda match: f"$ queuectl{match[1]} -h\n{_help(match[1])}", text)


def _help(words: str) -> str:
    command = [sys.executable, "-m", "queuectl", *words.split(), "-h"]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=True
    ).stdout


def main() -> None:
    path = f"{ROOT}/README.md"
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(quoted_anew(text))


if __name__ == "__main__":
    main()
