"""Devices, process groups, and what ranks agree on."""
