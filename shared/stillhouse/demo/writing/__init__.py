"""The demo of a task that writes: a small language model learns from recorded answers and takes over."""
