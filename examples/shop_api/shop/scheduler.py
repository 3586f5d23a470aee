"""`taskiq scheduler shop.scheduler:scheduler shop.tasks`."""

from taskiq import TaskiqScheduler
from taskiq.schedule_sources import LabelScheduleSource

from shop.brokers import orders, reminders

scheduler = TaskiqScheduler(orders, [LabelScheduleSource(orders), reminders])
