"""Storages that a conftest.py or a plugin registers: columns of the matrix like those of this package."""

import pytest

from tests.inner import InnerRun

DIRECTORY = """
    import json
    from pathlib import Path

    from taskiq_flow import clock
    from taskiq_flow.storage import BaseStorageAdapter, rules


    class DirectoryAdapter(BaseStorageAdapter):
        '''Six methods and nothing else.'''

        def __init__(self, folder):
            self.folder = Path(folder)
            self.closed = 0

        def _file(self, key):
            self.folder.mkdir(parents=True, exist_ok=True)
            return self.folder / key.encode().hex()

        def _read(self, file):
            if not file.exists():
                return None
            record = json.loads(file.read_text())
            return record if record["until"] is None or clock.now_ms() < record["until"] else None

        async def get(self, key):
            record = self._read(self._file(key))
            return None if record is None else record["value"]

        async def set(self, key, value, ttl_seconds=None):
            until = None if ttl_seconds is None else clock.now_ms() + rules.ttl_ms(ttl_seconds)
            self._file(key).write_text(json.dumps({"value": value, "until": until}))

        async def delete(self, key):
            lives = self._read(self._file(key)) is not None
            self._file(key).unlink(missing_ok=True)
            return lives

        async def exists(self, key):
            return self._read(self._file(key)) is not None

        async def keys(self, pattern="*"):
            matches = rules.matcher(pattern)
            files = self.folder.iterdir() if self.folder.exists() else ()
            names = [bytes.fromhex(file.name).decode() for file in files if self._read(file)]
            return sorted(filter(matches, names))

        async def cleanup(self, ttl_seconds=3600):
            expired = [file for file in self.folder.iterdir() if not self._read(file)]
            for file in expired:
                file.unlink()
            return len(expired)

        async def aclose(self):
            self.closed += 1


    def pytest_taskiq_flow_storages(config):
        return {"directory": lambda namespace, folder: DirectoryAdapter(folder / namespace)}
"""


@pytest.fixture
def registered(pytester: pytest.Pytester) -> None:
    """A project whose conftest.py registers the storage ``directory``."""
    pytester.makeconftest(DIRECTORY)


WHAT_FIXTURES_DO = """
    import pytest

    from taskiq_flow.exceptions import StorageConnectionError
    from taskiq_flow.storage.factory import StorageAdapterFactory

    async def test_stores_are_isolated(storage_adapter, make_storage_adapter, storage_backend):
        assert await storage_adapter.keys() == []
        await storage_adapter.set("key", 1)
        assert await make_storage_adapter().get("key") == 1
        assert await make_storage_adapter(namespace="beside").get("key") is None

    async def test_again(storage_adapter):
        assert await storage_adapter.keys() == []

    async def test_settings_reach_the_store(storage_adapter, storage_config):
        await storage_adapter.set("key", 1)
        async with StorageAdapterFactory.create_storage_adapter(storage_config) as theirs:
            assert await theirs.get("key") == 1

    async def test_default_time_to_live(make_storage_adapter, frozen_clock):
        adapter = make_storage_adapter(ttl_seconds=60)
        await adapter.set("key", 1)
        await adapter.set("longer", 1, 120)
        frozen_clock.tick(60)
        assert await adapter.keys() == ["longer"]

    async def test_cache(cache_adapter):
        assert await cache_adapter.get_or_create("key", lambda: 1) == 1
        assert await cache_adapter.get_or_create("key", lambda: 2) == 1

    async def test_broker(flow_broker):
        @flow_broker.task(task_name="double")
        async def double(number: int) -> int:
            return 2 * number

        task = await double.kiq(21)
        assert (await task.wait_result(check_interval=0.01, timeout=5)).return_value == 42

    async def test_failing_and_hanging(storage_adapter, storage_faults):
        storage_faults.fail("get")
        with pytest.raises(StorageConnectionError):
            await storage_adapter.get("key")
        assert await storage_adapter.get("key") is None
        with storage_faults.pause(), pytest.raises(StorageConnectionError, match="no answer within 2 s"):
            await storage_adapter.get("key")
"""


def test_each_fixture_works_on_a_registered_storage(inner: InnerRun, registered: None) -> None:
    result = inner(WHAT_FIXTURES_DO, "--storage-backends=memory,directory", "--storage-matrix")
    result.assert_outcomes(passed=14)
    result.stdout.fnmatch_lines(["storage backends: memory, directory *", "directory  7 passed in *  registered"])


def test_a_registered_storage_belongs_to_the_groups(inner: InnerRun, registered: None) -> None:
    code = "async def test_it(storage_adapter): ..."
    for option, names in [
        ("fakes", "memory, fakeredis, sqlite, directory"),
        ("default", "memory, fakeredis, sqlite, redis, postgres, directory"),
        ("all", "memory, fakeredis, sqlite, redis, postgres, valkey, mysql, directory"),
    ]:
        result = inner(code, f"--storage-backends={option}", "--collect-only")
        result.stdout.fnmatch_lines([f"storage backends: {names} *"])


def test_marker_ini_and_requirement_know_a_registered_storage(inner: InnerRun, registered: None) -> None:
    code = """
        import pytest

        @pytest.mark.storage_backends("directory")
        async def test_it(storage_adapter): ...
    """
    ini = "storage_backends = memory directory\nstorage_require = directory\n"
    inner(code, ini=ini).assert_outcomes(passed=1)


def test_what_a_registered_storage_cannot_do_is_said(inner: InnerRun, registered: None) -> None:
    code = """
        import pytest

        async def test_it(storage_adapter, storage_faults):
            await storage_adapter.set("key", 1)
            with pytest.raises(NotImplementedError, match="not possible on the storage 'directory'"):
                storage_faults.corrupt("key")
            with pytest.raises(NotImplementedError, match="disconnect"):
                storage_faults.disconnect()
    """
    inner(code, "--storage-backends=directory").assert_outcomes(passed=1)


def test_a_registered_storage_says_more_of_itself(inner: InnerRun, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from taskiq_flow.pytest_plugin.stores.registered import RegisteredStorage
        from taskiq_flow.storage import InMemoryStorageAdapter, InMemoryStore

        def pytest_taskiq_flow_storages():
            make = lambda namespace, folder: InMemoryStorageAdapter(namespace=namespace, store=STORE)
            cleared = lambda namespace, folder: print("cleared", namespace, sorted(STORE.records))
            yours = RegisteredStorage(
                make, is_real=True, is_default=False, origin="the cloud", version="Cloud 9", clear=cleared
            )
            return {"cloud": yours}

        STORE = InMemoryStore()
        """
    )
    code = "async def test_it(storage_adapter): await storage_adapter.set('key', 1)"
    result = inner(code, "--storage-backends=real", "--collect-only")
    result.stdout.fnmatch_lines(["storage backends: redis, postgres, valkey, mysql, cloud *"])
    assert "cloud" not in inner(code, "--collect-only").stdout.str()
    result = inner(code, "--storage-backends=cloud", "-s")
    result.stdout.fnmatch_lines(["*cleared tfk_* *tfk_*", "cloud      1 passed in *  Cloud 9, the cloud"])


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("{'memory': print}", "the name 'memory' is taken"),
        ("{'real': print}", "the name 'real' is taken"),
        ("{'my-store': print}", "small letters, digits and underscores, unlike 'my-store'"),
        ("{'mine': 3}", "'mine' must be a function of namespace and folder, or a StorageKind, not 3"),
        ("['mine']", "must return a dict of names and storages, not ['mine']"),
    ],
)
def test_a_bad_registration_is_a_usage_error(
    inner: InnerRun, pytester: pytest.Pytester, returned: str, words: str
) -> None:
    pytester.makeconftest(f"def pytest_taskiq_flow_storages(config): return {returned}")
    result = inner("def test_it(): ...")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "pytest_taskiq_flow_storages in " in result.stderr.str()
    assert words in result.stderr.str()


def test_adapters_are_closed_on_the_loop_on_which_they_were_used(inner: InnerRun, registered: None) -> None:
    code = """
        import asyncio
        import pytest

        @pytest.fixture(autouse=True)
        def closed(storage_adapter):
            yield
            assert storage_adapter.closed >= 1

        async def test_it(storage_adapter):
            await storage_adapter.set("key", 1)

        def test_plain(storage_adapter):
            asyncio.run(storage_adapter.set("key", 1))
    """
    inner(code, "--storage-backends=directory").assert_outcomes(passed=2)


def test_it_works_with_workers(inner: InnerRun, registered: None) -> None:
    code = """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        async def test_it(storage_adapter, number):
            assert await storage_adapter.keys() == []
            await storage_adapter.set("key", number)
    """
    inner(code, "--storage-backends=directory", "-n", "2").assert_outcomes(passed=4)
