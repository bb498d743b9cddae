"""The one exception of the package."""


class FitError(ValueError):
    """A fit that cannot be made as asked; the message says what was given, expected and what to do."""
