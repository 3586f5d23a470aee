"""``adopt(…, without=…, keeping=…)``: which middlewares an adopted broker does without."""

import pytest
from taskiq import AsyncBroker, TaskiqScheduler

from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.middlewares import StorageMiddleware
from taskiq_flow.pytest_plugin.broker import FlowBroker
from tests.plugin.broker.application import Noted, ProductionBroker

pytestmark = pytest.mark.storage_backends("memory")


class Reporting(Noted):
    """Calls somebody outside."""


class ReportingMore(Reporting):
    """Calls more of them."""


async def test_middlewares_are_left_out_by_class(flow_broker: FlowBroker) -> None:
    middlewares = [Reporting(), ReportingMore(), Noted()]
    broker = ProductionBroker().with_middlewares(*middlewares)
    flow_broker.adopt(broker, without=[Reporting])
    task = broker.register_task(lambda: None, task_name="work")
    await task.kiq()
    await flow_broker.drain()
    assert [middleware.seen for middleware in middlewares] == [[], [], ["sends work", "runs work"]]


def test_classes_that_match_no_middleware_are_refused(flow_broker: FlowBroker) -> None:
    broker = ProductionBroker().with_middlewares(Noted())
    for option in ("without", "keeping"):
        with pytest.raises(ConfigurationError, match=rf"{option}=\[Reporting\]\) matches no middleware.*: Noted"):
            flow_broker.adopt(broker, **{option: [Reporting]})
        with pytest.raises(TypeError, match="wants classes of middlewares"):
            flow_broker.adopt(broker, **{option: [Noted()]})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="to leave out and to keep Noted"):
        flow_broker.adopt(broker, without=[Noted], keeping=[Noted])
    assert type(broker) is ProductionBroker, "nothing was adopted"


def test_those_that_report_to_the_outside_are_left_out_unless_kept(flow_broker: FlowBroker) -> None:
    admin = pytest.importorskip("taskiq.middlewares.taskiq_admin_middleware").TaskiqAdminMiddleware

    class Own(admin):  # type: ignore[misc, valid-type]  # what is imported like this has no type
        """An application's own."""

    def broker() -> AsyncBroker:
        made: AsyncBroker = ProductionBroker().with_middlewares(admin("http://dashboard.example", "token"))
        made.add_middlewares(Own("http://dashboard.example", "token"))
        return made

    left_out, kept, own_kept, by_scheduler = broker(), broker(), broker(), broker()
    flow_broker.adopt(left_out)
    flow_broker.adopt(kept, keeping=[admin])
    flow_broker.adopt(own_kept, keeping=[Own])
    flow_broker.adopt(TaskiqScheduler(by_scheduler, []))
    flow_broker.adopt(by_scheduler, keeping=[admin])
    flow_broker.adopt(TaskiqScheduler(kept, []))

    def reporting(broker: AsyncBroker) -> list[type]:
        return [type(middleware) for middleware in broker.middlewares if isinstance(middleware, admin)]

    assert [reporting(each) for each in (left_out, kept, own_kept, by_scheduler)] == [
        [],
        [admin, Own],
        [Own],
        [admin, Own],
    ]


async def test_the_tests_own_middlewares_may_be_left_out(flow_broker: FlowBroker) -> None:
    broker = ProductionBroker().with_middlewares(StorageMiddleware())
    flow_broker.adopt(broker, without=[StorageMiddleware])
    assert not any(isinstance(middleware, StorageMiddleware) for middleware in broker.middlewares)
