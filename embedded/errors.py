"""The one error type that callers of the embedded AWS need to catch."""


class EmbeddedError(RuntimeError):
    """Something could not be done; the message says what, with which value, and what to do about it."""
