"""The one exception that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Something about the input, the config or the machine that only the user can change.

    The message says what was found, where, and what to do. The command line prints it without a traceback and
    exits with `EXIT_CODE`; anything else that escapes is a bug in osgap and keeps its traceback.
    """

    EXIT_CODE = 2
