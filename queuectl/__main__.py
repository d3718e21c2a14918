"""The entry point of `queuectl` and `python -m queuectl`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; exit with 130 if interrupted, even while its modules load."""
    try:
        from queuectl.cli import main as run
    except KeyboardInterrupt:
        print("queuectl: interrupted", file=sys.stderr)  # noqa: T201 - click is not loaded
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
