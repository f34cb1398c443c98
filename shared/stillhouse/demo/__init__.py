"""The demo: traffic that lets the whole loop be seen, and a report of what happened, measured from outside."""
