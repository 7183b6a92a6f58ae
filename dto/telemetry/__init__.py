"""What a rank tells the outside world: rows that never block and never raise into training."""

from dto.telemetry.link import Link, StopWord, connect, log

__all__ = ["Link", "StopWord", "connect", "log"]
