"""When the day before is ingested: at 00:15 UTC, together with the days before it that sources may still change."""

import dagster as dg

from metamon_assets import partitions

REREAD_DAYS = 3  # runs are patched and arrive late; feedback gets its own day and its own refresh


def daily_schedule(job_name: str) -> dg.ScheduleDefinition:
    """The daily schedule of a job: yesterday first, then the days before it.

    The keys are spelled out, since a schedule made from the partitions would ask for today, which has just begun.
    """

    @dg.schedule(
        name="daily_at_00_15",
        job_name=job_name,
        cron_schedule="15 0 * * *",
        execution_timezone="UTC",
        description="Reads and computes the day that has just ended, and reads the two days before it again for what came late.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
        scheduled = context.scheduled_execution_time
        days = reversed(partitions.closed_days(scheduled, REREAD_DAYS))
        return [
            dg.RunRequest(run_key=f"{scheduled:%Y-%m-%d}:{day}", partition_key=partitions.key_of(day), tags={"metamon/reason": "schedule"})
            for day in days
            if day >= partitions.daily.start.date()
        ]

    return schedule
