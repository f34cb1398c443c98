"""Advice before money is spent: what a task's recorded answers say about a student, before one is trained."""

from stillhouse.economics.advice.advise import Advice, Circumstances, advise
from stillhouse.economics.advice.case import Case

__all__ = ["Advice", "Case", "Circumstances", "advise"]
