"""What users and groups are called."""

from __future__ import annotations


def user_name(number: int) -> str:
    """Return what a user is called; the number, where they have no name, as in some containers."""
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def group_name(number: int) -> str:
    """Return what a group is called; the number, where it has no name."""
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
