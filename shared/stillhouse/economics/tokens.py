"""What an LLM's tokens cost, by the list prices that genai-prices carries (no network: its own snapshot)."""

from __future__ import annotations

from datetime import datetime


def token_usd(model: str, input_tokens: int, output_tokens: int, at: datetime | None = None) -> float:
    """USD of one call of `<provider>:<model>`, at the prices of `at` (default: now).

    Raises `ValueError` in one sentence for a model that the list does not know.
    """
    from genai_prices import Usage, calc_price

    provider, colon, name = model.partition(":")
    if not (provider and colon and name):
        raise ValueError(f"{model!r} names no model; write <provider>:<model>, such as openai:gpt-4o-mini")
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    try:
        return float(calc_price(usage, name, provider_id=provider, genai_request_timestamp=at).total_price)
    except LookupError:
        raise ValueError(f"genai-prices knows no model {name!r} of {provider!r}; correct it, or leave it out") from None
