"""What calls cost, whether a student pays, and what was saved after everything that it took."""

from stillhouse.economics.payback import Payback, pays
from stillhouse.economics.prices import Price, cpu_usd
from stillhouse.economics.savings import CostPer1k, Point, Savings, summarise

__all__ = ["CostPer1k", "Payback", "Point", "Price", "Savings", "cpu_usd", "pays", "summarise"]
