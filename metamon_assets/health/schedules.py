"""When the pipeline tidies up after itself: at 01:45 UTC, after the night's reading."""

import dagster as dg


def maintenance_schedule(job_name: str) -> dg.ScheduleDefinition:
    """The daily schedule of the maintenance job."""
    return dg.ScheduleDefinition(
        name="maintenance_at_01_45",
        job_name=job_name,
        cron_schedule="45 1 * * *",
        execution_timezone="UTC",
        description="Removes what nobody reads any more from Dagster's log and the live feed's books, so that they do not grow for ever.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
