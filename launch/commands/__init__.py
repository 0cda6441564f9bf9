"""The commands of `all4one`, one file a command: parse, call, print."""
