"""The versions of what is installed."""

import importlib.metadata


def installed(library: str) -> str | None:
    """A library's version; None where it is not installed, as gymnasium-robotics where no maze is played."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
