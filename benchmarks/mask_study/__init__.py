"""Better masks for B, measured: see ``__main__.py``."""
