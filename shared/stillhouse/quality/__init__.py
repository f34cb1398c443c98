"""Statistics: what decides, and how often it may be wrong. Knows neither Kafka nor Redis."""
