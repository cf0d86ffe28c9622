"""The `flexunet` command, one file per subcommand: those that a wheel has, and what all of them share."""
