"""The `reinforce` command, one file per subcommand."""
