"""The observer: writes what happened to the store, once, without personal data."""
