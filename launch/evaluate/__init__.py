"""`all4one eval` and `all4one embed`: evaluate a backbone, and write features to files."""
