"""Runs beside published figures."""
