"""Checkpoints made smaller, in an environment of their own."""
