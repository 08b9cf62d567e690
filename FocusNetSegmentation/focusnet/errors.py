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


class Terminated(BaseException):
    """The system asked the process to end (SIGTERM); no `except Exception` on the way may keep it."""


class Cancelled(FocusNetError):
    """The user asked to stop; nothing was written."""

    def __init__(self, message: str = "Cancelled on request; nothing was written.") -> None:
        super().__init__("E_CANCELLED", message)


_MEMORY_SIGNS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "alloc_failed",
    "bad_alloc",
    "bad allocation",
    "failed to allocate",
)


def lacks_memory(error: BaseException) -> bool:
    """Whether an exception of Python, torch or ITK means that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in _MEMORY_SIGNS)
    )


def out_of_memory() -> FocusNetError:
    """The refusal of an image for which memory does not suffice."""
    return FocusNetError("E_OUT_OF_MEMORY", "Memory does not suffice for this image; close programs or crop it.")
