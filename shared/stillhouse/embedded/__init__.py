"""The zero-install profile: parts of the platform's surroundings as processes on one machine, for development."""
