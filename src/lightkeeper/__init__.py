"""Lightkeeper keeps the light: data processing and preservation for a telescope observatory."""

from importlib.metadata import version

__version__ = version("lightkeeper")
