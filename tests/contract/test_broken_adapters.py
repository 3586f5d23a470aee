"""The contract suite catches what it claims to catch: adapters that lie, each in one way."""

from tests.contract import table
from tests.contract.broken import RULES, adapters, broken_caches

BROKEN = {name: kind for module in RULES for name, kind in adapters(module).items()} | broken_caches()


# One test, not one an adapter: the run of all is what takes the time, and pytest-xdist would repeat it in each process.
def test_every_broken_adapter_is_caught() -> None:
    caught = table.run()
    print(table.shown(caught))
    for control in table.CONTROLS:
        assert caught.pop(control) == [], "the suite fails on an adapter that is not broken"
    assert caught.keys() == BROKEN.keys()
    assert len(BROKEN) >= 40
    assert {name: BROKEN[name].__doc__ for name, tests in caught.items() if not tests} == {}, "not caught"
