"""The OpenAI-compatible edge: chat completions over HTTP, answered and recorded as requests of the topic are."""
