"""Holdfast keeps Python services answering.

``import holdfast`` needs the standard library and msgspec, nothing else. The server, the supervisor and
the command line come with the extra ``holdfast[server]``.
"""

__version__ = "0.1.0"
