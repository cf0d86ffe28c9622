"""TFX nodes beyond the stock ones, and what the Evaluator measures."""
