"""Language models that learn to write what their teacher writes."""
