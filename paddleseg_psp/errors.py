"""The one exception whose message is meant for the user as it stands, and how it quotes files."""


class UserError(Exception):
    """A mistake the user can mend: the message says what is wrong, where, and what to do."""


def shown(said: object) -> str:
    """Returns what a file says, or an error that has words of it, in a form that fits a line and changes no terminal."""
    text = str(said)
    return text if text.isprintable() and len(text) <= 200 else ascii(text[:200])[1:-1]
