"""The steps that a container is made of, one noun per module."""
