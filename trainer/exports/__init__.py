"""Exports of a trained backbone, one file for each format. `export.py` lists the formats."""
