"""The trainer: decides when a student pays, trains it in a subprocess, publishes it once."""
