"""Stub."""
def write(): return ""
