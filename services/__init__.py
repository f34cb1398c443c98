"""The services: thin shells around `stillhouse`."""
