"""Messages name users as people do."""

from __future__ import annotations

import pwd

from queuectl import WrongUserError
from queuectl.errors import error_text
from queuectl.system.users import user_name


def test_a_user_is_called_by_name_and_by_number_where_there_is_none() -> None:
    for entry in pwd.getpwall():
        assert pwd.getpwnam(user_name(entry.pw_uid)).pw_uid == entry.pw_uid
    assert user_name(4_000_000_001) == "4000000001"


def test_what_sudo_is_given_is_understood_by_it() -> None:
    assert "`sudo -u ann queuectl ...`" in str(WrongUserError("/srv/q", "ann"))
    assert "`sudo -u '#4711' queuectl ...`" in str(WrongUserError("/srv/q", "4711"))


def test_an_error_of_a_rename_names_both_places() -> None:
    error = PermissionError(13, "Permission denied", "processing/a", None, "completed/a")
    assert error_text(error) == "processing/a -> completed/a: Permission denied"
