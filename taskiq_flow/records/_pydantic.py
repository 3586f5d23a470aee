"""pydantic's ``ValidationError`` as what its ``from_exception_data`` is called with: it has no constructor."""

from typing import Any

from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticKnownError, ValidationError

__all__ = ["arguments_of", "make"]


def arguments_of(error: ValidationError) -> tuple[str, list[dict[str, Any]], bool]:
    """Return the title, the single errors, and whether they hide their input, which may be a secret and is left out."""
    details: list[dict[str, Any]] = [dict(each) for each in error.errors(include_url=False)]
    text = str(error)
    hides_input = any(f"[type={each['type']}]" in text for each in details)
    return error.title, [{**each, "input": None} if hides_input else each for each in details], hides_input


def make(title: str, details: list[dict[str, Any]], hides_input: bool) -> ValidationError:
    """Return the error.

    :raises Exception: if these are no such arguments.
    """
    return ValidationError.from_exception_data(title, list(map(_line_error, details)), hide_input=bool(hides_input))


def _line_error(details: dict[str, Any]) -> InitErrorDetails:
    """Return a single error, such that it says what it said."""
    name, message, context = details["type"], details["msg"], details.get("ctx")
    try:
        is_known = PydanticKnownError(name, context).message() == message
    except Exception:  # noqa: BLE001 - a validator's own type, or one of another version of pydantic
        is_known = False
    error = InitErrorDetails(
        type=name if is_known else PydanticCustomError(name, message, context),
        loc=tuple(details["loc"]),
        input=details["input"],
    )
    if is_known and context is not None:
        error["ctx"] = context
    return error
