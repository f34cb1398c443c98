"""What services say about themselves: logs, traces, metrics and health. Every name is in `names`."""
