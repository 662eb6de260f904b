"""The one error that means "this system does not do that", with the reason in one sentence."""


class Unsupported(ValueError):
    """A method, backend or library cannot do what was asked; the message says what to do instead.

    It is an answer, not a fault: a sweep records it as a row with status ``unsupported``.
    """
