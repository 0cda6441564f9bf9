"""The commands of `all4one`, one file for each command. They parse arguments, call the implementation and print."""
