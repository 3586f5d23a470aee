"""The contracts as test suites, for any adapter: ``StorageAdapterContract`` and ``CacheAdapterContract``.

Every rule of the contract is a test with a name of its own, whose docstring is the rule, and whose failure says which
rule broke, what was asked, what came back and what should have.
"""

from taskiq_flow.pytest_plugin.contract.cache import CacheAdapterContract
from taskiq_flow.pytest_plugin.contract.compare_and_set import CompareAndSetRules
from taskiq_flow.pytest_plugin.contract.concurrency import ConcurrencyRules
from taskiq_flow.pytest_plugin.contract.entries import EntryRules
from taskiq_flow.pytest_plugin.contract.errors import ErrorRules
from taskiq_flow.pytest_plugin.contract.keys import KeyRules, NamespaceRules
from taskiq_flow.pytest_plugin.contract.lifecycle import LifecycleRules
from taskiq_flow.pytest_plugin.contract.patterns import PatternRules
from taskiq_flow.pytest_plugin.contract.suite import CAPABILITIES
from taskiq_flow.pytest_plugin.contract.ttl import CleanupRules, TTLRules
from taskiq_flow.pytest_plugin.contract.values import DamageRules, ValueRules

__all__ = ["CAPABILITIES", "CacheAdapterContract", "StorageAdapterContract"]


class StorageAdapterContract(
    KeyRules,
    NamespaceRules,
    ValueRules,
    DamageRules,
    TTLRules,
    CleanupRules,
    PatternRules,
    EntryRules,
    CompareAndSetRules,
    ConcurrencyRules,
    LifecycleRules,
    ErrorRules,
):
    """The storage contract, as tests. Subclass it, and say how to make the adapter::

        from taskiq_flow.pytest_plugin import StorageAdapterContract


        class TestDynamoAdapter(StorageAdapterContract):
            @pytest.fixture
            def storage_adapter(self):
                return DynamoAdapter(...)

    Without a ``storage_adapter`` of its own, a subclass tests all the storages that the plugin knows.

    The tests are plain functions that call ``asyncio.run``: no plugin for asynchronous tests is needed. Each works on
    one event loop, on which it closes the adapter at the end; only those that need the capability ``event_loops`` use
    several.

    **Fixtures**, to be defined in the class:

    ``storage_adapter``
        a new adapter on an empty storage of the test's own.
    ``make_storage_adapter``
        a function ``make(ttl_seconds=…, namespace=…)`` that returns another adapter on the same storage, as a second
        worker would have. Both arguments may be left out: no default time to live, and the same namespace. Without this
        fixture the tests of what two adapters see of each other are skipped.

    **Attributes**:

    ``expiry_clock``
        how the adapter knows that an entry has expired. ``"storage"``: it asks ``taskiq_flow.clock`` (the default).
        ``"wall"``: it asks Python's own ``time`` or ``datetime``, which the suite freezes (with freezegun).
        ``"server"``: a server's clock judges, which nobody can move; the suite really waits, with short times to live
        (``server_life`` seconds, 0.2 by default), and skips what only a moved clock can show.
    ``lacks``
        what this adapter cannot do, and why, such as ``{"entries": "it keeps values only"}``; the reason is shown where
        a test is skipped. What may be lacking are the ``CAPABILITIES``. An adapter that defines just the six abstract
        methods of ``BaseStorageAdapter`` lacks ``entries``; that it has no ``compare_and_set`` is seen by itself.
    ``timeout``
        seconds after which a test gives up (30).
    ``many_keys``
        how many keys the tests of long listings store (1,100: many servers return at most 1,000 at a time).

    **Methods**, for the rules that go behind the adapter's back. They know the adapters of this package; for others,
    their tests are skipped unless they are overridden:

    ``make_adapter_at(adapter, host, port, password)``
        returns an adapter like this one for a server at that address, with time-outs of about 0.3 s.
    ``async read_raw(adapter, key)``
        returns the bytes that are stored for a key.
    ``async write_raw(adapter, key, data)``
        replaces them; returns False if the store itself takes no such bytes.
    """
