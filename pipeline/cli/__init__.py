"""The subcommands that need a checkout: training, judging, looking back."""
