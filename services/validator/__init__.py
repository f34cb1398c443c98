"""The validator: decides which student may go one stage further, and never on a point estimate."""
