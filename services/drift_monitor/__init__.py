"""The drift monitor: watches every live student for broken promises, and only says so."""
