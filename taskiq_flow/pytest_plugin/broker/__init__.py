"""The in-memory broker behind the fixture ``flow_broker``."""

from taskiq_flow.pytest_plugin.broker.broker import FlowBroker

__all__ = ["FlowBroker"]
