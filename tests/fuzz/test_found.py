"""What the differential test found, each in its smallest form."""

from typing import Any

import pytest

from taskiq_flow import serialization
from tests.fuzz.machine import canonical

NAN = float("nan")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("\ud83d\ude00", id="two surrogates that JSON takes for one character"),
        pytest.param(["a\ud800\udc00\udc00\ud800\ud800\udfffz", "\udc00\ud800"], id="the same among others"),
        pytest.param({"\ud83d\ude00": 1, "😀": 2}, id="the same as a key of a dict"),
        pytest.param({NAN, float("nan")}, id="two NaNs in a set"),
        pytest.param({NAN: 1, float("nan"): 2}, id="two NaNs as keys of a dict"),
    ],
)
def test_comes_back_as_it_was(value: Any) -> None:
    text = serialization.dumps(value)
    assert canonical(serialization.loads(text)) == canonical(value), ascii(text)
    text.encode()
