"""Evaluation splits, metrics, tables, figures and videos."""
