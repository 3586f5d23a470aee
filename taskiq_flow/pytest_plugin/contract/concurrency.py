"""The contract's rules for concurrent callers, and for calls that are cancelled."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from taskiq_flow.pytest_plugin.contract.check import RuleCheck, needs, rule
from taskiq_flow.pytest_plugin.contract.comparison import shown
from taskiq_flow.pytest_plugin.contract.suite import Suite

__all__ = ["ConcurrencyRules"]

_WRITERS = 50
_CANCELLATIONS = 12


class ConcurrencyRules(Suite):
    """Concurrent calls do not harm each other, and cancelled calls leave nothing half done."""

    @rule
    async def test_first_use_by_many_tasks_at_once(self, check: RuleCheck) -> None:
        """First use opens what is needed, once: tasks that race to be first all succeed."""
        await asyncio.gather(*(check.storage.set(f"key:{number:02}", number) for number in range(10)))
        check.expect(await check.storage.keys(), [f"key:{number:02}" for number in range(10)])

    @needs("shared_store")
    @rule
    async def test_first_use_by_many_adapters_at_once(self, check: RuleCheck) -> None:
        """First use opens what is needed, once: adapters on one store that race to be first all succeed."""
        adapters = [check.storage, *(check.another(f"adapter {number}") for number in range(1, 5))]
        await asyncio.gather(*(adapter.set(f"key:{number}", number) for number, adapter in enumerate(adapters)))
        for adapter in adapters:
            check.expect(await adapter.keys(), [f"key:{number}" for number in range(5)])

    @rule
    async def test_writers_of_one_key_leave_one_whole_value(self, check: RuleCheck) -> None:
        """With any number of writers a key holds one whole value, and nobody gets an error."""
        values = [[number] * 500 for number in range(_WRITERS)]
        seen: list[Any] = []

        async def read() -> None:
            for _ in range(10):
                seen.append(await check.storage.get("key"))
                await asyncio.sleep(0)

        await check.storage.set("key", values[0])
        await asyncio.gather(*(check.storage.set("key", value) for value in values), read(), read())
        seen.append(await check.storage.get("key"))
        for value in seen:
            if value not in values:
                check.fail(came_back=shown(value), should_be="one of the values, whole, at every moment")
        check.expect(await check.storage.keys(), ["key"])

    @needs("entries")
    @rule
    async def test_writers_of_one_key_leave_one_whole_entry(self, check: RuleCheck) -> None:
        """``set`` is one atomic step: value and expiry that are found together were set together."""
        seen = []

        async def write(number: int) -> None:
            await check.storage.set("key", number, ttl_seconds=1000 + number)
            seen.append(await check.storage.get_entry("key"))

        await asyncio.gather(*(write(number) for number in range(20)))
        for found in seen:
            entry = check.expect_entry(found, "key")
            ttl = ((entry.expires_at or entry.created_at) - entry.created_at).total_seconds()
            check.expect(round(ttl) - 1000, entry.value, "the expiry that belongs to another value")

    @rule
    async def test_writers_of_many_keys_lose_nothing(self, check: RuleCheck) -> None:
        """Writers at the same time lose nothing of each other's."""
        wanted = {f"key:{number:02}": number for number in range(_WRITERS)}
        await asyncio.gather(*(check.storage.set(key, value) for key, value in wanted.items()))
        check.expect(await check.storage.keys(), sorted(wanted))
        for key, value in wanted.items():
            check.expect(await check.storage.get(key), value)

    @needs("shared_store")
    @rule
    async def test_writers_on_two_adapters_lose_nothing(self, check: RuleCheck) -> None:
        """Two adapters on one store see each other's writes at once, and lose none of them."""
        other = check.another()
        wanted = {f"key:{number:02}": number for number in range(20)}
        await asyncio.gather(
            *((check.storage, other)[number % 2].set(key, number) for number, key in enumerate(wanted))
        )
        check.expect(await other.keys(), sorted(wanted))
        check.expect(await check.storage.keys(), sorted(wanted))

    @needs("shared_store")
    @rule
    async def test_what_one_adapter_does_the_other_sees_at_once(self, check: RuleCheck) -> None:
        """Adapters on one store see at once what the other set, replaced and deleted."""
        other = check.another()
        check.expect(await other.get("key"), None)
        await check.storage.set("key", 1)
        check.expect(await other.get("key"), 1)
        await other.set("key", 2)
        check.expect(await check.storage.get("key"), 2)
        check.expect(await other.delete("key"), True)
        check.expect(await check.storage.get("key"), None)
        check.expect(await check.storage.exists("key"), False)

    @rule
    async def test_of_many_deletes_one_returns_true(self, check: RuleCheck) -> None:
        """``delete`` returns True to the one caller that removed the entry."""
        await check.storage.set("key", 1)
        outcomes = await asyncio.gather(*(check.storage.delete("key") for _ in range(10)))
        check.expect(sorted(outcomes), [False] * 9 + [True])

    @needs("event_loops")
    @rule
    async def test_event_loops_of_several_threads_at_once(self, check: RuleCheck) -> None:
        """One adapter object may be used from the event loops of several threads at the same time."""

        async def use(name: str) -> None:
            for number in range(5):
                await check.storage.set(f"{name}:{number}", number)
                await check.storage.get(f"{name}:{number}")
                await check.storage.set("shared", [name] * 100)

        # A thread cannot be cancelled: each must give up by itself.
        threads = (asyncio.to_thread(asyncio.run, asyncio.wait_for(use(name), self.timeout)) for name in "abcd")
        await asyncio.gather(*threads, use("e"))
        wanted = [f"{name}:{number}" for name in "abcde" for number in range(5)]
        check.expect(await check.storage.keys(), [*wanted, "shared"])

    @rule
    async def test_a_cancelled_call_leaves_the_adapter_usable(self, check: RuleCheck) -> None:
        """A cancelled call leaves the adapter usable, whichever call it was and wherever it stood."""
        await check.storage.set("key", "value")
        calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            lambda: check.storage.set("other", "value"),
            lambda: check.storage.get("key"),
            lambda: check.storage.exists("key"),
            check.storage.keys,
            check.storage.cleanup,
            lambda: check.storage.delete("other"),
        ]
        for step in range(_CANCELLATIONS):
            await _cancelled_at(step, calls[step % len(calls)]())
            check.expect(await check.storage.get("key"), "value", f"after a cancellation at step {step}")
        await asyncio.gather(*(_cancelled_at(step, call()) for step in range(4) for call in calls))
        await check.storage.set("key", "after")
        check.expect(await check.storage.get("key"), "after")

    @rule
    async def test_a_cancelled_set_is_all_or_nothing(self, check: RuleCheck) -> None:
        """A cancelled set leaves no half-written entry: what was there before, or the new one, whole."""
        before: Any = ["before"] * 100
        await check.storage.set("key", before)
        for step in range(_CANCELLATIONS):
            after = [f"after {step}"] * 100
            await _cancelled_at(step, check.storage.set("key", after))
            found = await check.storage.get("key")
            if found not in (before, after):
                check.fail(came_back=shown(found), should_be=f"{shown(before, 40)} or {shown(after, 40)}, whole")
            before = found

    @rule
    async def test_a_cancelled_set_is_over(self, check: RuleCheck) -> None:
        """A cancelled set is over: it does not, later, replace what was set after it. (A thread goes on when its caller
        is cancelled: the cancelled call must wait for it.)
        """
        for step in range(1, 8):
            cancelled = (check.storage.set("key", f"cancelled {step}") for _ in range(6))
            await asyncio.gather(*(_cancelled_at(step, call) for call in cancelled))
            await check.storage.set("key", f"set after {step}")
            await asyncio.sleep(0.005)
            check.expect(await check.storage.get("key"), f"set after {step}")


async def _cancelled_at(step: int, call: Coroutine[Any, Any, Any]) -> None:
    """Start a call and cancel it some steps of the event loop later: near its beginning, or deep inside."""
    task = asyncio.ensure_future(call)
    for _ in range(step):
        await asyncio.sleep(0)
    if step % 4 == 3:
        await asyncio.sleep(0.0005 * step)  # where a server or a thread is at work
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
