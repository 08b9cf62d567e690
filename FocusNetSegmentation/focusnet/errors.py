"""The one exception family of the project: every refusal carries a stable reason code."""


class FocusNetError(Exception):
    """An input, a model or a request that is refused.

    Args:
        code: Stable reason code for scripts, for example ``E_NOT_CT``.
        message: One line for a person: what was got, why it is refused, what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Cancelled(FocusNetError):
    """The user asked to stop; nothing was written."""

    def __init__(self, message: str = "Cancelled on request; nothing was written.") -> None:
        super().__init__("E_CANCELLED", message)
