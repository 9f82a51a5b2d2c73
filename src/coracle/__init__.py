"""coracle: a container engine in pure Python that can explain every step it takes."""

__version__ = "0.1.0"
