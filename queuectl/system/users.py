"""Look up the names of users and groups."""

from __future__ import annotations


def user_name(number: int) -> str:
    """Return the name of a user, or the number if there is none, as in some containers."""
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def group_name(number: int) -> str:
    """Return the name of a group, or the number if there is none."""
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
