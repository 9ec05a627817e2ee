"""The one exception whose message is meant for the user as it stands."""


class UserError(Exception):
    """A mistake the user can mend: the message says what is wrong, where, and what to do."""
