"""Students that write, served by vLLM: one server process for one immutable checkpoint."""
