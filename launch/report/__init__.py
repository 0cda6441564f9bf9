"""`all4one report`: what runs and studies did, as one HTML page."""
