"""Recipes known better than one run knows them: folds by group, trainings of their own processes, one pooled score."""
