"""Sends what the workers and the scheduler then do: pipelines, a one-off, and what repeats."""

import asyncio
from datetime import datetime, timedelta, timezone

from app import broker, cities, heartbeat, source, temperature, warmest

from taskiq_flow.pipeline import Pipeline


async def main() -> None:
    await broker.startup()
    await heartbeat.schedule_by_time(source, datetime.now(timezone.utc) + timedelta(seconds=2), "once")
    await heartbeat.schedule_by_cron(source, "* * * * *", "each minute")
    for run, country in (("france", "fr"), ("italy", "it"), ("italy-again", "it")):
        pipeline = Pipeline(broker, cities, pipeline_id=run).map(temperature, check_interval=0.05).call_next(warmest)
        task = await pipeline.kiq(country)
        result = await task.wait_result(check_interval=0.05, timeout=30)
        result.raise_for_error()
        print(f"{run}: {result.return_value}")
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
