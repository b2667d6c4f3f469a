"""Protocols, metrics, tables, figures and videos."""
