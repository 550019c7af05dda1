"""Runs held against each other, from MLflow alone: tables, verdicts in words, plots, pages."""
