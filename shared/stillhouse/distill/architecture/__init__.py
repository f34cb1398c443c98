"""What a model costs and where, and which student architectures fit a target: `analyze` and `design`."""
