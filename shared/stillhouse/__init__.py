"""Stillhouse: expensive model calls, replaced by a cheap model that has been proven to give the same answers."""
