"""Plug-ins, one file each, found by entry points. They know `domain` and `ports`, nothing else of Lightkeeper."""
