"""Kernel facts, one noun per module; nothing here knows what a container is."""
