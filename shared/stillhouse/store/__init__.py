"""What is kept: so far, the rules for what must not be."""
