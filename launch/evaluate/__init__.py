"""`all4one eval` and `all4one embed`: evaluators of a backbone, and features as files."""
