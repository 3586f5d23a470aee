"""What messages show of a URL, and of what a driver says about it."""

from urllib.parse import quote

import pytest

from taskiq_flow.storage.urls import masked, scrubbed, without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "memory://"),
        ("memory://shared", "memory://shared"),
        ("redis://host", "redis://host"),
        ("redis://host:1/2", "redis://host:1/2"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://:s3cret@[::1]:6379/0", "redis://:***@[::1]:6379/0"),
        ("rediss://user:s3cret@host:1/2", "rediss://user:***@host:1/2"),
        ("redis://user@host", "redis://user:***@host"),
        ("unix:///run/redis@1.sock?password=s3cret", "unix:///run/redis@1.sock?***"),
        ("unix://user:s3cret@/run/redis.sock", "unix://user:***@/run/redis.sock"),
        ("redis://a:s3cret@h:1,b:s3cret@i:2/0", "redis://a:***@i:2/0"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("sqlite:////folder/a@b.db", "sqlite:////folder/a@b.db"),
        ("postgresql+asyncpg://u:s3cret@h/d?password=s3cret", "postgresql+asyncpg://u:***@h/d?***"),
        ("redis://u:s3cret@h/0?next=redis://i", "redis://u:***@h/0?***"),
        ("redis://h?password=s3@cret", "redis://***"),
        ("user:s3cret@host/db?x", "host/db"),
        ("localhost", "localhost"),
        ("", ""),
    ],
)
def test_masked_url_shows_neither_password_nor_query(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize("sign", list("/#?@[]:% \\"))
@pytest.mark.parametrize("scheme", ["redis", "postgresql+asyncpg"])
def test_masked_url_hides_an_unquoted_password(scheme: str, sign: str) -> None:
    shown = masked(f"{scheme}://user:s3c{sign}ret@host/0")
    assert "s3c" not in shown
    assert "ret" not in shown
    assert shown.startswith(f"{scheme}://")
    assert sign == "?" or shown == f"{scheme}://user:***@host/0"


@pytest.mark.parametrize("url", ["unix://user@/run/redis.sock?password=s3@cret", "redis://h?password=s3@cret"])
def test_masked_url_hides_a_query_with_an_unquoted_password(url: str) -> None:
    assert "s3" not in masked(url)
    assert "cret" not in masked(url)


@pytest.mark.parametrize("sign", list("@/:%#?&=+;, \\'\"\n"))
@pytest.mark.parametrize("url", ["redis://user:{}@host:6379/0", "postgresql://user@host/db?password={}&x=1"])
@pytest.mark.parametrize("quoted", [True, False])
def test_scrubbed_text_holds_no_part_of_a_password(url: str, sign: str, quoted: bool) -> None:
    password = f"Alpha{sign}Bravo"
    given = url.format(quote(password, safe="") if quoted else password)
    text = f"{given}, {password}, {password!r}, {quote(password)}, host 'Bravo@host', port 'alpha', {given.lower()}"
    shown = scrubbed(text, given).lower()
    assert "alpha" not in shown
    assert "bravo" not in shown
    assert "host" in shown


@pytest.mark.parametrize(
    ("text", "url", "shown"),
    [
        ("refused: pa@ss, p@ss, p%40ss", "x://me:p%40ss@h", "refused: pa@***, ***, ***"),
        ("a cat sat on it: at", "redis://:at@h", "a cat sat on it: ***"),
        ("db, host, me", "postgresql://me@host/db", "db, host, me"),
        ("host:6379", "redis://host:6379", "host:6379"),
        ("a@b.db", "sqlite:////folder/a@b.db", "a@b.db"),
        ("key.pem, s3cret", "postgresql://h/d?sslpassword=s3cret", "key.pem, ***"),
        ("nothing", "", "nothing"),
    ],
)
def test_scrubbed_text_keeps_what_is_not_secret(text: str, url: str, shown: str) -> None:
    assert scrubbed(text, url) == shown


def test_error_without_secrets_keeps_its_class_and_what_it_is_chained_to() -> None:
    cause, error = OSError(2, "no host Bravo", "Alpha@Bravo"), ValueError("port 'Alpha'", ("Bravo", 1))
    error.__cause__ = cause
    error.add_note("while connecting to Bravo")
    cleaned = without_secrets(error, "redis://:Alpha@Bravo@host")
    assert cleaned is error
    assert cleaned.args == ("port '***'", ("***", 1))
    assert cleaned.__notes__ == ["while connecting to ***"]
    assert str(cause) == "[Errno 2] no host ***: '***'"


def test_error_that_says_a_secret_all_the_same_is_replaced() -> None:
    class StubbornError(Exception):
        def __str__(self) -> str:
            return "refused Bravo"

    cleaned = without_secrets(StubbornError(), "redis://:Bravo@host")
    assert repr(cleaned) == "RuntimeError('StubbornError: refused ***')"


def test_error_chained_in_a_circle_comes_to_an_end() -> None:
    one, two = ValueError("Bravo"), ValueError("Bravo")
    one.__context__, two.__context__ = two, one
    without_secrets(ExceptionGroup("Bravo", [one]), "redis://:Bravo@host")
    assert (str(one), str(two)) == ("***", "***")
