"""Which URLs of Redis are understood; those of sentinels reach the server that the sentinels name."""

from pathlib import Path

import pytest

from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.storage import RedisStorageAdapter
from tests import redis_servers


@pytest.mark.parametrize("url", ["http://h", "localhost", "", "redis:/h", "postgresql://h"])
def test_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"known schemes: redis://, rediss://, unix://"):
        RedisStorageAdapter(url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://:s3cret@h:port", "a port or query value"),
        ("redis://:s3#cret@h", "a port or query value"),
        ("redis://:s3cret@h?nonsense=1", "an unknown query parameter"),
        ("redis://:s3cret@h?db=one", "a port or query value"),
        ("redis://:s3cret@h:65536", "a port or query value"),
        ("valkey://:s3cret@h:65536", "a port or query value"),
        ("redis://:s3cret@h?port=65536", "a port or query value"),
        ("redis://:s3cret@h?port=-1", "a port or query value"),
        ("redis://:s3cret@h?port=one", "a port or query value"),
    ],
)
def test_url_that_cannot_be_used_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"has {problem} that cannot be used; a password") as raised:
        RedisStorageAdapter(url)
    assert "s3" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:0", "redis://h:0"),
        ("redis://h:65535", "redis://h:65535"),
        ("redis://h?port=0", "redis://h?***"),
        ("redis://h?port=65535", "redis://h?***"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("valkeys://h", "valkeys://h"),
        ("redis://h?client_name=a://b", "redis://h?***"),
        ("valkey://h?client_name=a://b", "valkey://h?***"),
    ],
)
def test_usable_url_is_shown_masked(url: str, shown: str) -> None:
    assert f"({shown}, " in repr(RedisStorageAdapter(url))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://h/abc", "a database that is not a number"),
        ("redis://h/0/1", "a database that is not a number"),
        ("redis+sentinel://h/main/abc", "a database that is not a number"),
        ("redis+sentinel://h", "names no service"),
        ("redis+sentinel://h:port/main", "a sentinel without host or port"),
        ("redis+sentinel://a,,b/main", "a sentinel without host or port"),
        ("redis+sentinel://h/main?nonsense=1", "an unknown query parameter"),
        ("rediss://h?ssl_cert_reqs=sometimes", "an ssl_cert_reqs that is none of none, optional, required"),
    ],
)
def test_url_that_cannot_be_meant_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        RedisStorageAdapter(url)


@pytest.mark.parametrize("word", ["none", "required", "CERT_NONE", "CERT_REQUIRED", "CERT_OPTIONAL"])
@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster"])
def test_certificate_requirements_may_be_in_words_of_python(word: str, scheme: str) -> None:
    RedisStorageAdapter(f"{scheme}://h?ssl_cert_reqs={word}")


def test_blanks_around_a_url_are_stripped() -> None:
    assert repr(RedisStorageAdapter(" redis://h:1/2\n")) == repr(RedisStorageAdapter("redis://h:1/2"))


async def test_sentinels_name_the_server(tmp_path: Path) -> None:
    with redis_servers.sentinel(tmp_path, "main") as (port, _):
        url = f"redis+sentinel://:{redis_servers.PASSWORD}@127.0.0.1:1,127.0.0.1:{port}/main/3?client_name=shop"
        async with RedisStorageAdapter(url) as adapter:
            await adapter.set("key", 1)
            assert await adapter.keys() == ["key"]
            client = await adapter._client()
            assert (await client.client_info())["db"] == 3
            assert redis_servers.PASSWORD not in repr(adapter)
