"""`all4one report`: write runs and studies as one HTML page."""
