"""The pages: report of a run, data, comparison of two runs."""
