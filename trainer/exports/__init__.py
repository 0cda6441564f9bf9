"""A trained backbone in the layouts that others load: one file a format, listed in `export.py`."""
