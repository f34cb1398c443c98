"""The review queue as people meet it: cases with their texts, verdicts as events, files for labelling tools."""

from stillhouse.review.queue import Case, Said, cases_named, find_case, verdict_events, waiting

__all__ = ["Case", "Said", "cases_named", "find_case", "verdict_events", "waiting"]
