"""Chat completions: what is asked, and the teachers that answer it."""
