"""From Debian's speech packages to the bundled ``nano`` model: ``python -m tools.train``."""
