"""Texts of unknown length in messages: the one place that shortens them."""

__all__ = ["one_line", "shortened", "shown"]


def shortened(text: str, limit: int = 80) -> str:
    """Return ``text``, and of a long one the first ``limit - 1`` characters and an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def shown(thing: object, limit: int = 80) -> str:
    """Return the ``repr`` of anything, shortened; it raises nothing."""
    try:
        return shortened(repr(thing), limit)
    except Exception as error:  # noqa: BLE001 - an integer of 5,000 digits, a list that is too deep, a bug of its class
        return f"<{type(thing).__name__} whose repr raises {type(error).__name__}>"


def one_line(error: object, limit: int = 300) -> str:
    """Return the first line of what an error says, shortened; its class where it says nothing."""
    return shortened(next(iter(str(error).strip().splitlines()), type(error).__name__), limit)
