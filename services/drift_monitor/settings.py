"""What only the drift monitor is told."""

from __future__ import annotations

from pydantic import Field

from stillhouse.settings import Settings


class DriftMonitorSettings(Settings):
    """`STILLHOUSE_...` as for every service, and the drift monitor's own keys."""

    drift_monitor_window: int = Field(default=100, ge=1, description="Recent audits that an alarm's estimate is over.")
